"""What every storage promises, whatever it is: an object is visible only when it is complete and right."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from support import storage
from support.planned import Planned
from support.storage import FileKept, Kept, S3Kept

from streamer.errors import Conflict, NotFound, NotPermitted, SourceChanged, SourceFailed
from streamer.export.exporter import exporter
from streamer.export.plan import Options
from streamer.sinks.address import Scheme, parse
from streamer.sinks.base import Record
from streamer.sinks.delivery import Delivered, Manner, deliver
from streamer.sinks.metadata import target
from streamer.sinks.patience import Patience
from streamer.sinks.storages import Access, storages
from streamer.tar.compression import Compression

MiB = 1 << 20
PART = 5 * MiB
DATA = random.Random(1).randbytes(PART * 2 + 12_345)
ACCESS = Access(
    path_style=True, plain=True, patience=Patience(tries=3, first_pause=0.01, longest_pause=0.05, answer=60)
)


@pytest.fixture(scope="module", params=["seaweedfs", "rclone", "azurite", "file"])
def kept(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    folder: Path = tmp_path_factory.mktemp(request.param)
    if request.param == "file":
        yield FileKept(folder)
        return
    with getattr(storage, request.param)(folder) as opened, pytest.MonkeyPatch.context() as patch:
        for name, value in opened.environment.items():
            patch.setenv(name, value)
        yield opened


class Sending:
    """Exports of planned data to one storage, each as a process of its own would do it."""

    def __init__(self, kept: Kept) -> None:
        self.kept = kept

    async def send(
        self,
        planned: Planned,
        key: str,
        *,
        replace: bool = True,
        record: Record | None = None,
        digest_first: bool = False,
        **options: Any,
    ) -> Delivered:
        plan = planned.plan(None, Options(**options))
        address = self.kept.address(key)
        async with storages(ACCESS) as places, exporter() as exports:
            try:
                return await deliver(
                    exports,
                    plan,
                    await places.of(address),
                    lambda size, digest: target(
                        address, plan, token="t-1", engine="memory", size=size, digest=digest, replace=replace
                    ),
                    manner=Manner(PART, 3, digest_first),
                    record=record,
                )
            finally:
                with anyio.CancelScope(shield=True):
                    await exports.idle()
                    assert planned.open == 0


@pytest.fixture
def sending(kept: Kept) -> Sending:
    return Sending(kept)


@pytest.mark.parametrize("known", [True, False], ids=["ranges", "stream"])
@pytest.mark.parametrize("size", [1024, PART, PART + 1, 2 * PART, len(DATA)])
async def test_an_object_is_the_stream(sending: Sending, size: int, known: bool) -> None:
    key = f"some/where/{size}-{known}.tar" if sending.kept.address("x").scheme is not Scheme.FILE else f"{size}-{known}"
    planned = Planned(DATA[:size], known=known)
    made = await sending.send(planned, key)
    assert (made.size, made.digest) == (size, "sha256:" + hashlib.sha256(DATA[:size]).hexdigest())
    assert await sending.kept.read(key) == DATA[:size]
    assert await sending.kept.left() == []
    if known and size > 2 * PART:
        assert sorted(planned.spans) == [(0, PART), (PART, 2 * PART), (2 * PART, size)]


async def test_a_compressed_one(sending: Sending) -> None:
    made = await sending.send(Planned(DATA), "a.tar.gz", compression=Compression.GZIP)
    data = await sending.kept.read("a.tar.gz")
    assert data is not None
    assert made.digest == "sha256:" + hashlib.sha256(data).hexdigest()


async def test_it_says_what_it_is(sending: Sending) -> None:
    if isinstance(sending.kept, FileKept):
        return  # a file says nothing of itself
    digest = "sha256:" + hashlib.sha256(DATA).hexdigest()
    for size, planned, first in (
        (len(DATA), Planned(DATA, digest=digest), False),
        (99, Planned(DATA[:99]), False),
        (len(DATA), Planned(DATA), True),
    ):
        made = await sending.send(planned, "described.tar", digest_first=first)
        said = await sending.kept.metadata("described.tar")
        assert said["content-type"] == "application/x-tar"
        expected = {
            "digest": made.digest,
            "source": "container box of store memory",
            "kind": "container",
            "engine": "memory",
            "size": str(size),
            "export": "t-1",
        }
        assert {name: said.get(name) for name in expected} == expected
        assert said["tool"].startswith("streamer/")


@pytest.mark.parametrize("known", [True, False], ids=["ranges", "stream"])
@pytest.mark.parametrize(
    "at", [0, PART // 100_000, 2 * PART // 100_000], ids=["first part", "second part", "last part"]
)
async def test_a_source_that_fails_leaves_nothing(sending: Sending, known: bool, at: int) -> None:
    def failing(pieces: Iterator[bytes]) -> Iterator[bytes]:
        for number, piece in enumerate(pieces):
            if number == at % (PART // 100_000 if known else 1000):
                raise SourceFailed("the disk is gone")
            yield piece

    with pytest.raises(SourceFailed, match="the disk is gone"):
        await sending.send(Planned(DATA, known=known, fault=failing), "failed.tar")
    assert await sending.kept.read("failed.tar") is None
    assert await sending.kept.left() == []


async def test_a_source_that_changes_leaves_nothing(sending: Sending) -> None:
    planned = Planned(DATA)

    def changing(pieces: Iterator[bytes]) -> Iterator[bytes]:
        planned.etag = "v2"
        return pieces

    planned.fault = changing
    with pytest.raises(SourceChanged):
        await sending.send(planned, "changed.tar")
    assert await sending.kept.read("changed.tar") is None
    assert await sending.kept.left() == []


async def test_a_wrong_digest_leaves_nothing(sending: Sending) -> None:
    with pytest.raises(SourceChanged):
        await sending.send(Planned(DATA, digest="sha256:" + "0" * 64), "wrong.tar")
    assert await sending.kept.read("wrong.tar") is None
    assert await sending.kept.left() == []


@pytest.mark.parametrize("known", [True, False], ids=["ranges", "stream"])
@pytest.mark.parametrize("seconds", [0.0, 0.05, 0.2])
async def test_a_cancelled_one_is_whole_or_not_there(sending: Sending, known: bool, seconds: float) -> None:
    with anyio.move_on_after(seconds):
        await sending.send(Planned(DATA, known=known), "cancelled.tar")
    assert await sending.kept.read("cancelled.tar") in (None, DATA)
    assert await sending.kept.left() == []


async def test_what_is_there_is_replaced(sending: Sending) -> None:
    await sending.kept.write("there.tar", b"before")
    await sending.send(Planned(DATA), "there.tar")
    assert await sending.kept.read("there.tar") == DATA


@pytest.mark.parametrize("size", [1024, len(DATA)])
async def test_what_is_there_is_not_replaced(sending: Sending, size: int) -> None:
    await sending.kept.write("kept.tar", b"before")
    planned = Planned(DATA[:size])
    with pytest.raises(Conflict, match=r"kept\.tar: it exists already"):
        await sending.send(planned, "kept.tar", replace=False)
    assert planned.spans == []  # nothing was read for it
    await sending.send(planned, f"new-{size}.tar", replace=False)
    assert await sending.kept.read(f"new-{size}.tar") == DATA[:size]
    assert await sending.kept.left() == []


@pytest.mark.parametrize("size", [1024, len(DATA)])
async def test_what_appears_meanwhile_is_not_replaced(sending: Sending, size: int) -> None:
    if isinstance(sending.kept, S3Kept) and not sending.kept.conditions:
        return  # it knows no conditions
    key = f"meanwhile-{size}.tar"

    class Rival(Record):
        async def completing(self, size: int, digest: str) -> None:
            await sending.kept.write(key, b"before")

    with pytest.raises(Conflict, match=r"it exists already"):
        await sending.send(Planned(DATA[:size]), key, replace=False, record=Rival())
    assert await sending.kept.read(key) == b"before"
    assert await sending.kept.left() == []


async def test_no_such_bucket(kept: Kept) -> None:
    if isinstance(kept, FileKept):
        address, missing = parse(str(kept.folder / "missing" / "x.tar")), "No such file or directory"
    else:
        address, missing = parse(f"{kept.address('x').scheme.value}://missing/x.tar"), "there is no bucket 'missing'"
    async with storages(ACCESS) as places, exporter() as exports:
        for size in (1024, len(DATA)):
            plan = Planned(DATA[:size]).plan(None, Options())
            with pytest.raises(NotFound, match=missing):
                await deliver(
                    exports,
                    plan,
                    await places.of(address),
                    lambda size, digest, plan=plan: target(
                        address, plan, token="t", engine="e", size=size, digest=digest, replace=True
                    ),
                    manner=Manner(PART, 2),
                )


async def test_wrong_credentials(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    if not isinstance(kept, S3Kept):
        return
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(NotPermitted, match=r"^cannot write s3://exports/secret\.tar: .*check the credentials"):
        await Sending(kept).send(Planned(DATA), "secret.tar")
