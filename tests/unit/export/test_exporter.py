"""The exporter: what a stream promises, and that nothing outlives it, whatever happens to its reader."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Iterator

import anyio
import pytest
from support.leaks import held, settles

from streamer.errors import Busy, Draining, SourceChanged, SourceFailed, StreamerError
from streamer.export.exporter import Exporter, exporter
from streamer.export.plan import ExportPlan, Kind, Session
from streamer.tar.compression import Compression

ENDLESS = 1_000_000
NOISE = random.Random(0).randbytes(256 << 10)
"""Nothing compresses it, so that every compressor hands something on soon."""


class Source:
    """A plan's chunks with a record of what happened to them."""

    def __init__(self, chunks: int = 5, *, fail_at: int | None = None, error: Exception | None = None) -> None:
        self.chunks = chunks
        self.fail_at = fail_at
        self.error = error or OSError(5, "Input/output error")
        self.made = 0
        self.closed = threading.Event()
        self.gate: threading.Event | None = None

    def __call__(self, session: Session) -> Iterator[bytes]:
        try:
            for number in range(self.chunks):
                if self.gate is not None:
                    self.gate.wait(60)
                if number == self.fail_at:
                    raise self.error
                session.check()
                self.made += 1
                yield b"%04d" % number * 1024 if self.chunks < ENDLESS else NOISE
        finally:
            self.closed.set()


def planned(chunks: Callable[[Session], Iterator[bytes]], **more: object) -> ExportPlan:
    return ExportPlan(Kind.CONTAINER, "container x", "x", chunks, **more)  # type: ignore[arg-type]


async def taken(exports: Exporter, plan: ExportPlan) -> bytes:
    async with exports.open(plan) as stream:
        return b"".join([chunk async for chunk in stream])


async def test_a_whole_stream_and_nothing_left():
    before = held()
    source = Source()
    async with exporter() as exports:
        body = await taken(exports, planned(source))
        assert body == b"".join(b"%04d" % number * 1024 for number in range(5))
        assert source.closed.is_set()
        await exports.idle()
        assert exports.statistics().open == 0
    assert await settles(before) == []


async def test_a_clean_end_means_that_everything_was_released_before():
    source = Source()
    async with exporter() as exports, exports.open(planned(source)) as stream:
        async for _ in stream:
            pass
        assert source.closed.is_set()


@pytest.mark.parametrize("fail_at", range(5))
async def test_an_error_at_every_chunk_never_ends_cleanly(fail_at):
    async with exporter() as exports:
        source = Source(fail_at=fail_at)
        with pytest.raises(SourceFailed, match=r"cannot export container x: Input/output error"):
            await taken(exports, planned(source))
        assert source.closed.is_set()


async def test_an_error_before_the_first_chunk_raises_on_opening():
    async with exporter() as exports:
        with pytest.raises(SourceChanged):
            async with exports.open(planned(Source(fail_at=0, error=SourceChanged("gone")))):
                raise AssertionError("not reached")


async def test_a_bug_is_an_internal_error_and_not_a_traceback_in_the_body():
    async with exporter() as exports:
        with pytest.raises(StreamerError, match="an error inside streamer") as caught:
            await taken(exports, planned(Source(fail_at=2, error=ZeroDivisionError())))
        assert caught.value.code == "internal"
        assert isinstance(caught.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize("compression", list(Compression))
@pytest.mark.parametrize("takes", range(3))
async def test_a_reader_that_leaves_ends_the_producer(takes, compression):
    before = held()
    source = Source(chunks=ENDLESS)
    async with exporter() as exports:
        async with exports.open(planned(source, compression=compression)) as stream:
            for _ in range(takes):
                await stream.__anext__()
        await exports.idle()
        assert source.closed.is_set()
        assert source.made < ENDLESS
    assert await settles(before) == []


async def test_an_exception_in_the_reader_ends_the_producer():
    source = Source(chunks=ENDLESS)
    async with exporter() as exports:
        with pytest.raises(KeyError):
            async with exports.open(planned(source)) as stream:
                async for _ in stream:
                    raise KeyError
        await exports.idle()
        assert source.closed.is_set()


@pytest.mark.parametrize("cancels", [1, 2, 5])
@pytest.mark.parametrize("while_opening", [True, False])
async def test_native_cancellation_however_often_ends_the_producer(cancels, while_opening):
    source = Source(chunks=ENDLESS)
    source.gate = threading.Event()
    if not while_opening:
        source.gate.set()
    async with exporter() as exports:

        async def reader() -> None:
            async with exports.open(planned(source)) as stream:
                async for _ in stream:
                    await asyncio.sleep(0)

        task = asyncio.create_task(reader())
        await asyncio.sleep(0.02)
        for _ in range(cancels):
            task.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await task
        source.gate.set()
        await exports.idle()
        assert source.closed.is_set()
        assert exports.statistics().abandoned == 0


async def test_one_failing_export_does_not_touch_its_neighbours():
    async with exporter() as exports:
        good = Source(chunks=50)
        async with exports.open(planned(good)) as stream:
            for _ in range(5):
                with pytest.raises(SourceFailed):
                    await taken(exports, planned(Source(fail_at=1)))
            body = b"".join([chunk async for chunk in stream])
        assert len(body) == 50 * 4096


async def test_more_than_the_limit_is_refused_until_a_producer_is_gone():
    async with exporter(limit=2) as exports:
        async with exports.open(planned(Source())), exports.open(planned(Source())):
            with pytest.raises(Busy, match="2 exports are open") as caught:
                await taken(exports, planned(Source()))
            assert caught.value.details["retry_after"] > 0
        await exports.idle()
        assert len(await taken(exports, planned(Source()))) == 5 * 4096


async def test_refusing_lets_open_exports_go_on_and_aborting_breaks_them():
    async with exporter() as exports:
        source = Source(chunks=ENDLESS)
        async with exports.open(planned(source)) as stream:
            exports.refuse(Draining("shutting down"))
            with pytest.raises(Draining):
                await taken(exports, planned(Source()))
            assert await stream.__anext__()
            exports.abort(Draining("shutting down"))
            with pytest.raises(Draining):
                async for _ in stream:
                    pass
        await exports.idle()
        assert source.closed.is_set()


async def test_closing_the_exporter_breaks_open_streams_and_waits_for_their_producers():
    source = Source(chunks=ENDLESS)
    streams = []
    async with exporter() as exports:
        manager = exports.open(planned(source))
        streams.append(await manager.__aenter__())
    assert source.closed.is_set()
    with pytest.raises(Draining):
        await streams[0].__anext__()
    await manager.__aexit__(None, None, None)


async def test_a_hung_read_is_abandoned_after_the_release_limit():
    hanging, release = threading.Event(), threading.Event()

    def hangs(session: Session) -> Iterator[bytes]:
        yield b"first"
        hanging.set()
        release.wait(60)
        yield b"second"

    with anyio.CancelScope() as scope:
        async with exporter(release_limit=0.1) as exports, exports.open(planned(hangs)) as stream:
            await stream.__anext__()
            assert await anyio.to_thread.run_sync(hanging.wait, 60)
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert exports.statistics().abandoned == 1
    release.set()


async def test_leaving_does_not_wait_for_a_hung_read_beyond_the_release_limit():
    hanging, release = threading.Event(), threading.Event()

    def hangs(session: Session) -> Iterator[bytes]:
        yield b"first"
        hanging.set()
        release.wait(60)
        yield b"second"

    try:
        with anyio.fail_after(60):
            async with exporter(release_limit=0.1) as exports, exports.open(planned(hangs)) as stream:
                await stream.__anext__()
                assert await anyio.to_thread.run_sync(hanging.wait, 60)
        assert exports.statistics().abandoned == 1
        assert exports.statistics().open == 0
    finally:
        release.set()


async def test_a_log_that_cannot_be_written_costs_no_slot(monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    async with exporter(limit=1) as exports:
        monkeypatch.setattr(Exporter, "_log", full)
        monkeypatch.setattr(threading, "excepthook", lambda _: None)
        for _ in range(3):
            assert len(await taken(exports, planned(Source()))) == 5 * 4096
            await exports.idle()


@pytest.mark.parametrize(
    ("size", "digest", "message"),
    [
        (4, None, "became longer"),
        (5 * 4096 + 1, None, "of the 20481 announced"),
        (None, "sha256:" + "0" * 64, "no longer has the digest"),
    ],
)
async def test_a_wrong_size_or_digest_never_ends_cleanly(size, digest, message):
    async with exporter() as exports:
        received = 0
        with pytest.raises(SourceChanged, match=message):
            async with exports.open(planned(Source(), size=size, digest=digest)) as stream:
                async for chunk in stream:
                    received += len(chunk)
        assert received < 5 * 4096
