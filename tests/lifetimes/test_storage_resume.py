"""An upload that another process goes on with: only parts that are missing are sent, what differs is sent anew."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace

import anyio
import pytest
from support import storage
from support.faults import Faulty, faulty
from support.planned import Planned
from support.storage import S3Kept

from streamer.export.exporter import exporter
from streamer.export.plan import Options
from streamer.sinks.base import Begun, Part, Record
from streamer.sinks.delivery import Delivered, Manner, Source, Watch, deliver
from streamer.sinks.metadata import target
from streamer.sinks.patience import Patience
from streamer.sinks.storages import Access, storages

PART = 5 << 20
DATA = random.Random(5).randbytes(5 * PART + 77)
KEY = "resumed.tar"
SENT = 3
"""Parts that the first process sends."""


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Kept]:
    with storage.seaweedfs(tmp_path_factory.mktemp("weed")) as opened, pytest.MonkeyPatch.context() as patch:
        for name, value in opened.environment.items():
            patch.setenv(name, value)
        yield opened


class Notebook(Record, Watch):
    """What a process writes down; `goes_on` is what the one before it did."""

    suspended = True

    def __init__(self, goes_on: Begun | None = None, stop_after: int | None = None) -> None:
        self.upload = ""
        self.parts: dict[int, Part] = {}
        self.source: Source | None = None
        self.scope = anyio.CancelScope()
        self._goes_on = goes_on
        self._stop_after = stop_after

    async def begun(self, upload: str) -> None:
        self.upload = upload

    async def stored(self, part: Part) -> None:
        self.parts[part.number] = part
        if len(self.parts) == self._stop_after:
            self.scope.cancel()

    async def outlined(self, source: Source | None) -> Begun | None:
        self.source = source
        return self._goes_on


@asynccontextmanager
async def counted(kept: S3Kept, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Faulty]:
    async with faulty(kept.url) as way:
        monkeypatch.setenv("AWS_ENDPOINT_URL", way.url)
        yield way


async def send(kept: S3Kept, planned: Planned, notebook: Notebook) -> Delivered | None:
    plan, address = planned.plan(None, Options()), kept.address(KEY)
    async with storages(Access(path_style=True)) as places, exporter() as exports:
        with notebook.scope:
            return await deliver(
                exports,
                plan,
                await places.of(address),
                lambda size, digest: target(
                    address, plan, token="t", engine="e", size=size, digest=digest, replace=True
                ),
                manner=Manner(PART, 1),
                record=notebook,
                watch=notebook,
            )
    return None


def parts_sent(way: Faulty) -> int:
    return sum("partNumber" in call for call in way.calls)


async def interrupted(kept: S3Kept) -> Notebook:
    """What a process leaves that was put by after so many parts."""
    notebook = Notebook(stop_after=SENT)
    assert await send(kept, Planned(DATA), notebook) is None
    assert await kept.left() == [KEY]
    assert await kept.read(KEY) is None
    return notebook


async def whole(kept: S3Kept, made: Delivered | None, data: bytes) -> None:
    assert made is not None
    assert made.digest == "sha256:" + hashlib.sha256(data).hexdigest()
    assert await kept.read(KEY) == data
    assert await kept.left() == []
    async with kept.client() as client:
        await client.delete_object(Bucket=kept.bucket, Key=KEY)


async def test_only_what_is_missing_is_sent(kept: S3Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    before = await interrupted(kept)
    async with counted(kept, monkeypatch) as way:
        made = await send(kept, Planned(DATA), Notebook(Begun(before.upload, before.parts)))
        assert parts_sent(way) == 6 - SENT
        assert "POST uploads" not in way.calls
    await whole(kept, made, DATA)


async def test_parts_that_differ_after_all_are_sent_anew(kept: S3Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    """The version is the same, the bytes are not: what is remade decides."""
    before = await interrupted(kept)
    data = DATA[:PART] + b"?" + DATA[PART + 1 :]
    async with counted(kept, monkeypatch) as way:
        made = await send(kept, Planned(data), Notebook(Begun(before.upload, before.parts)))
        assert parts_sent(way) == 6 - SENT + 1
    await whole(kept, made, data)


async def test_a_part_that_the_storage_lost_is_sent_anew(kept: S3Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    before = await interrupted(kept)
    before.parts[1] = replace(before.parts[1], etag="0" * 32)
    async with counted(kept, monkeypatch) as way:
        made = await send(kept, Planned(DATA), Notebook(Begun(before.upload, before.parts)))
        assert parts_sent(way) == 6 - SENT + 1
    await whole(kept, made, DATA)


async def test_an_upload_that_is_gone_is_begun_anew(kept: S3Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    before = await interrupted(kept)
    async with kept.client() as client:
        await client.abort_multipart_upload(Bucket=kept.bucket, Key=KEY, UploadId=before.upload)
    async with counted(kept, monkeypatch) as way:
        made = await send(kept, Planned(DATA), Notebook(Begun(before.upload, before.parts)))
        assert parts_sent(way) == 6
    await whole(kept, made, DATA)


async def test_a_sweep_takes_what_nobody_knows_and_leaves_what_is_known(kept: S3Kept) -> None:
    before, began = await interrupted(kept), time.time()
    unknown = await kept.begin(KEY)
    elsewhere = await kept.begin(f"{KEY}.other")
    address = kept.address(KEY)
    async with storages(Access(path_style=True)) as places:
        found = await places.of(address)
        plan = Planned(DATA).plan(None, Options())
        this = target(address, plan, token="t", engine="e", size=None, digest=None, replace=True)
        # Neither what began before, nor what began long after: somebody else's.
        for since in (4e9, time.time() - 2 * Patience().longest):
            await found.sweep(this, since=since, keep=[before.upload])
            assert sorted(await kept.left()) == [KEY, KEY, f"{KEY}.other"]
        await found.sweep(this, since=began, keep=[before.upload])
        assert sorted(await kept.left()) == [KEY, f"{KEY}.other"]
        await found.sweep(this, upload=before.upload)
        await found.sweep(this, upload=before.upload)  # once more is no failure
        assert await kept.left() == [f"{KEY}.other"]
    async with kept.client() as client:
        await client.abort_multipart_upload(Bucket=kept.bucket, Key=f"{KEY}.other", UploadId=elsewhere)
    assert unknown
