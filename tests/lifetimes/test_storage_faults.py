"""Object storage that fails at any call: in the end the object is whole and right, or there is none, and no upload."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

import pytest
from support import storage
from support.faults import Fault, Faulty, faulty
from support.planned import Planned
from support.storage import S3Kept

from streamer.errors import Conflict, NotPermitted, SourceFailed, StorageFailed, StorageUnreachable, StreamerError
from streamer.export.exporter import Exporter, exporter
from streamer.export.plan import Options
from streamer.sinks.base import Storage
from streamer.sinks.delivery import Manner, deliver
from streamer.sinks.metadata import target
from streamer.sinks.patience import Patience
from streamer.sinks.storages import Access, storages

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PART = 5 << 20
DATA = random.Random(1).randbytes(2 * PART + 1000)
SILENCE = 3.0
"""Seconds after which an answer is given up where it does not come on purpose."""
PATIENCE = Patience(tries=4, first_pause=0.01, longest_pause=0.05, answer=60, slowest=1 << 20)
KEY = "faults/a.tar"

FINAL = {Fault.FORBIDDEN: NotPermitted, Fault.WRONG_ETAG: StorageFailed}
"""What may end an export although it happens but once: with parts' checksums compared, an ETag is only a name, and one
that is wrong is no part's."""


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Kept]:
    with storage.seaweedfs(tmp_path_factory.mktemp("weed")) as opened, pytest.MonkeyPatch.context() as patch:
        for name, value in opened.environment.items():
            patch.setenv(name, value)
        yield opened


def patience(fault: Fault) -> Patience:
    """No call is given up that is only slow, but for those of the test that waits for it."""
    return replace(PATIENCE, answer=SILENCE, slowest=20 << 20) if fault is Fault.TIMEOUT else PATIENCE


class Case:
    def __init__(self, kept: S3Kept, way: Faulty, found: Storage, exports: Exporter) -> None:
        self.kept, self.way, self.storage, self.exports = kept, way, found, exports

    async def send(self, planned: Planned, *, overwrite: bool = True, concurrency: int = 2) -> StreamerError | None:
        """How one export ended."""
        plan, address = planned.plan(None, Options()), self.kept.address(KEY)
        try:
            await deliver(
                self.exports,
                plan,
                self.storage,
                lambda size, digest: target(
                    address, plan, token="t-1", engine="e", size=size, digest=digest, replace=overwrite
                ),
                manner=Manner(PART, concurrency),
            )
        except StreamerError as error:
            return error
        return None

    async def holds(self, planned: Planned, error: StreamerError | None, what: str) -> None:
        """The promise, looked at past the faulty way."""
        there = await self.kept.read(KEY)
        assert there == (None if error is not None else planned.data), (what, error, there and len(there))
        assert await self.kept.left() == [], (what, error)
        async with self.kept.client() as client:
            await client.delete_object(Bucket=self.kept.bucket, Key=KEY)


WAYS = {
    "ranges": (Planned(DATA), True),
    "a stream, not to overwrite": (Planned(DATA, known=False), False),
    "one request": (Planned(DATA[:1000]), True),
    "one request, not to overwrite": (Planned(DATA[:1000]), False),
}


@pytest.mark.parametrize("fault", Fault)
async def test_each_call_fails_once(kept: S3Kept, fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    async with faulty(kept.url) as way:
        way.silence = SILENCE + 1
        monkeypatch.setenv("AWS_ENDPOINT_URL", way.url)
        async with storages(Access(path_style=True, patience=patience(fault))) as places, exporter() as exports:
            case = Case(kept, way, await places.of(kept.address(KEY)), exports)
            for name, (planned, overwrite) in WAYS.items():
                way.plan(None, 0)
                assert await case.send(planned, overwrite=overwrite) is None
                await case.holds(planned, None, name)
                for at in range(len(way.calls)):
                    way.plan(fault, at)
                    error = await case.send(planned, overwrite=overwrite)
                    what = f"{name}, call {at}: {way.calls}"
                    if isinstance(error, Conflict):
                        # Whoever answers "is it there?" with a plain 200 is believed.
                        assert (fault, way.calls) == (Fault.ERROR_IN_200, ["HEAD "]), what
                    elif fault not in FINAL:
                        assert error is None, (what, error)
                    elif error is not None:
                        assert type(error) is FINAL[fault], (what, error)
                        code = "AccessDenied" if fault is Fault.FORBIDDEN else "InvalidPart"
                        assert f"s3://exports/faults/a.tar: the storage says {code}" in str(error)
                    await case.holds(planned, error, what)


@pytest.mark.parametrize("fault", Fault)
async def test_taking_back_fails_once(kept: S3Kept, fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    """The source fails, and then the call that takes the upload back does."""

    def failing(pieces: Iterator[bytes]) -> Iterator[bytes]:
        for number, piece in enumerate(pieces):
            if number == 60:
                raise SourceFailed("the disk is gone")
            yield piece

    planned = Planned(DATA, known=False, fault=failing)
    async with faulty(kept.url) as way:
        way.silence = SILENCE + 1
        monkeypatch.setenv("AWS_ENDPOINT_URL", way.url)
        async with storages(Access(path_style=True, patience=patience(fault))) as places, exporter() as exports:
            case = Case(kept, way, await places.of(kept.address(KEY)), exports)
            way.plan(None, 0)
            assert isinstance(await case.send(planned), SourceFailed)
            for at in range(len(way.calls)):
                way.plan(fault, at)
                error = await case.send(planned)
                assert isinstance(error, StreamerError), (fault, at, way.calls)
                await case.holds(planned, error, f"{fault}, call {at}: {way.calls}")


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault.SERVER_ERROR, StorageUnreachable),
        (Fault.RESET, StorageUnreachable),
        (Fault.EXPIRED, NotPermitted),
        (Fault.FORBIDDEN, NotPermitted),
    ],
)
async def test_a_part_that_always_fails(
    kept: S3Kept, fault: Fault, kind: type[StreamerError], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As often as it is tried, and no oftener; what refuses for good is asked once (twice with new credentials)."""
    # A reset connection that was used before is tried once more by the client library itself.
    tries = {Fault.EXPIRED: 2, Fault.FORBIDDEN: 1, Fault.RESET: 2 * PATIENCE.tries}.get(fault, PATIENCE.tries)
    async with faulty(kept.url) as way:
        monkeypatch.setenv("AWS_ENDPOINT_URL", way.url)
        async with storages(Access(path_style=True, patience=PATIENCE)) as places, exporter() as exports:
            case = Case(kept, way, await places.of(kept.address(KEY)), exports)
            planned = replace(WAYS["ranges"][0], data=DATA[: PART + 10], known=False)
            # One part at a time: the calls before the second part are its creation and the first part.
            way.plan(fault, 1, times=tries)
            error = await case.send(planned, concurrency=1)
            assert isinstance(error, kind), error
            await case.holds(planned, error, fault)
