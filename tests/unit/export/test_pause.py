"""Pausing: a container stands still while it is read, and runs again on every way out."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import signal
import subprocess
import tarfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from support.exports import body, container
from support.freezers import Engine, FakeFreezer, watchers
from support.leaks import held

from streamer.errors import (
    Conflict,
    Draining,
    EngineUnreachable,
    PauseExpired,
    SourceChanged,
    StreamerError,
    Unsupported,
)
from streamer.export.container import plan_container
from streamer.export.diff import plan_diff
from streamer.export.exporter import Exporter, ExportStream, exporter
from streamer.export.pause import Pauses
from streamer.export.plan import ExportPlan, Options
from streamer.stores.base import Container
from streamer.tar.compression import Compression

PAUSE = Options(pause=True)
BLOCK = 256 << 10
UNREACHABLE = EngineUnreachable("no engine")


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return Engine(tmp_path / "state")


@pytest.fixture
def box(tmp_path: Path, engine: Engine) -> Container:
    """A container with a few MiB: more than lies between a producer and a reader that waits."""
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(8):
        (tree / f"{number}").write_bytes(os.urandom(4 * BLOCK))
    return replace(container(tree), freezer=FakeFreezer(engine))


@pytest.fixture(autouse=True)
def nothing_left(engine: Engine) -> Iterator[None]:
    before = held()
    children = watchers()
    yield
    assert engine.state == "user" or engine.becomes("running")
    deadline = time.monotonic() + 60
    while (held().beyond(before) or watchers() != children) and time.monotonic() < deadline:
        time.sleep(0.005)
    assert held().beyond(before) == []
    assert watchers() == children, "a watcher is left"


async def _first(stream: ExportStream) -> bytes:
    return await stream.__anext__()


async def _rest(stream: ExportStream) -> bytes:
    return b"".join([chunk async for chunk in stream])


@asynccontextmanager
async def _under_way(exports: Exporter, plan: ExportPlan) -> AsyncIterator[ExportStream]:
    async with exports.open(plan) as stream:
        await _first(stream)
        yield stream


@pytest.mark.parametrize("planned", [plan_container, plan_diff])
@pytest.mark.parametrize("compression", [Compression.NONE, Compression.GZIP])
async def test_paused_from_the_first_byte_to_the_last(
    box: Container, engine: Engine, planned: Callable[[Container, Options], ExportPlan], compression: Compression
) -> None:
    async with exporter() as exports, exports.open(planned(box, replace(PAUSE, compression=compression))) as stream:
        assert engine.state == "paused"
        data = await _rest(stream)
        assert engine.state == "running"
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert len([member for member in archive if member.isreg()]) == 8
    assert engine.asked == ["still", "pause", "still", "resume"]


async def test_not_paused_unless_asked(box: Container, engine: Engine) -> None:
    await body(plan_container(box, Options()))
    assert engine.asked == []


async def test_resumed_before_the_end_of_the_archive_is_sent(tmp_path: Path, engine: Engine) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "file").write_bytes(b"x" * BLOCK)
    box = replace(container(tmp_path / "tree"), freezer=FakeFreezer(engine))
    async with exporter() as exports, exports.open(plan_container(box, PAUSE)) as stream:
        await _first(stream)  # the header, and then the block is on its way
        await _first(stream)
        assert await anyio.to_thread.run_sync(engine.becomes, "running")
        assert len(await _rest(stream)) == 1024  # nobody had asked for the end yet


@pytest.mark.parametrize("planned", [plan_container, plan_diff])
def test_no_engine_is_said_before_anything_is_opened(box: Container, planned: Callable[..., ExportPlan]) -> None:
    with pytest.raises(Unsupported, match="cannot pause container c of store none"):
        planned(replace(box, freezer=None), PAUSE)


@pytest.mark.parametrize("state", ["paused", "exited"])
async def test_what_stands_still_already_stays_so(box: Container, engine: Engine, state: str) -> None:
    engine.state = state
    await body(plan_container(box, PAUSE))
    assert engine.state == state
    assert "pause" not in engine.asked
    assert "resume" not in engine.asked
    engine.state = "running"


async def test_paused_by_somebody_in_the_very_moment_stays_so(box: Container, engine: Engine) -> None:
    engine.then["still"] = lambda: setattr(engine, "state", "user")  # between the question and the pause
    await body(plan_container(box, PAUSE))
    assert engine.state == "user"
    assert engine.asked == ["still", "pause", "still"]


@pytest.mark.parametrize("started", ["paused", "exited"])
async def test_what_stood_still_and_runs_at_the_end_is_no_good(box: Container, engine: Engine, started: str) -> None:
    engine.state = started
    async with exporter() as exports:
        with pytest.raises(SourceChanged, match="resumed or ended by somebody else"):
            async with _under_way(exports, plan_container(box, PAUSE)) as stream:
                engine.state = "running"
                await _rest(stream)


async def test_resumed_by_somebody_else_is_no_good(box: Container, engine: Engine) -> None:
    async with exporter() as exports:
        with pytest.raises(SourceChanged, match="resumed or ended by somebody else"):
            async with _under_way(exports, plan_container(box, PAUSE)) as stream:
                engine.state = "running"
                await _rest(stream)
    assert "resume" not in engine.asked, "it is no longer ours to resume"


@pytest.mark.parametrize("when", ["still", "pause"])
@pytest.mark.parametrize("error", [UNREACHABLE, Conflict("refused"), ValueError("a bug")])
async def test_an_engine_that_does_not_pause_fails_before_the_first_byte(
    box: Container, engine: Engine, when: str, error: Exception
) -> None:
    engine.faults[when] = error
    async with exporter() as exports:
        with pytest.raises(StreamerError) as caught:
            async with exports.open(plan_container(box, PAUSE)):
                raise AssertionError("not reached")
    assert caught.value is error or caught.value.__cause__ is error


async def test_a_pause_that_happened_after_its_deadline_is_undone(box: Container, engine: Engine) -> None:
    def late() -> None:
        raise UNREACHABLE

    engine.then["pause"] = late
    with pytest.raises(EngineUnreachable):
        await body(plan_container(box, PAUSE))
    assert engine.state == "running"


async def test_a_guard_that_fails_is_heard_after_resuming(box: Container, engine: Engine) -> None:
    def guard() -> None:
        assert engine.state == "running"
        raise SourceChanged("removed")

    with pytest.raises(SourceChanged, match="removed"):
        await body(plan_container(replace(box, guard=guard), PAUSE))


async def test_a_failure_to_look_at_the_end_is_a_failure(box: Container, engine: Engine) -> None:
    async with exporter() as exports:
        with pytest.raises(EngineUnreachable):
            async with _under_way(exports, plan_container(box, PAUSE)) as stream:
                engine.faults["still"] = UNREACHABLE
                await _rest(stream)
    assert engine.state == "running"


async def test_a_failure_to_resume_is_a_failure_and_the_watcher_goes_on(box: Container, engine: Engine) -> None:
    engine.faults["resume"] = UNREACHABLE
    async with exporter() as exports:
        with pytest.raises(EngineUnreachable):
            async with exports.open(plan_container(box, PAUSE)) as stream:
                await _rest(stream)
    assert await anyio.to_thread.run_sync(engine.becomes, "running")


async def test_the_first_error_wins_over_a_failure_to_resume(box: Container, engine: Engine, tmp_path: Path) -> None:
    engine.faults["resume"] = UNREACHABLE
    os.truncate(tmp_path / "tree" / "7", 64 << 20)  # more than lies between the producer and us
    async with exporter() as exports:
        with pytest.raises(SourceChanged, match="it ends before") as caught:
            async with exports.open(plan_container(box, PAUSE)) as stream:
                async for _ in stream:
                    if stream.received > 8 << 20:
                        os.truncate(tmp_path / "tree" / "7", 0)
    assert caught.value.__notes__ == ["While resuming: no engine"]


async def _leaves(exports: Exporter, stream: ExportStream) -> None:
    raise KeyError("the reader's own")


async def _is_cancelled(exports: Exporter, stream: ExportStream) -> None:
    raise asyncio.CancelledError


async def _is_aborted(exports: Exporter, stream: ExportStream) -> None:
    exports.abort(Draining("shutting down"))
    await _rest(stream)


@pytest.mark.parametrize("takes", [0, 1, 3])
@pytest.mark.parametrize("way", [_leaves, _is_cancelled, _is_aborted])
async def test_resumed_on_every_way_out(
    box: Container, engine: Engine, way: Callable[[Exporter, ExportStream], object], takes: int
) -> None:
    async with exporter() as exports:
        with pytest.raises((KeyError, asyncio.CancelledError, Draining)):
            async with exports.open(plan_container(box, PAUSE)) as stream:
                for _ in range(takes):
                    await _first(stream)
                assert engine.state == "paused"
                await way(exports, stream)  # type: ignore[misc]
        await exports.idle()
        assert engine.state == "running"


@pytest.mark.parametrize("phase", ["still", "pause"])
async def test_a_reader_that_is_cancelled_while_the_engine_is_asked(box: Container, engine: Engine, phase: str) -> None:
    reached, go = threading.Event(), threading.Event()

    def waits() -> None:
        if not go.is_set():
            reached.set()
            go.wait(60)

    engine.then[phase] = waits

    async with exporter() as exports:

        async def reader() -> None:
            async with exports.open(plan_container(box, PAUSE)) as stream:
                await _rest(stream)

        task = asyncio.create_task(reader())
        await anyio.to_thread.run_sync(reached.wait, 60)
        for _ in range(3):
            task.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await task
        go.set()
        await exports.idle()
        assert engine.state == "running"
        assert exports.statistics().abandoned == 0


async def test_closing_the_exporter_resumes(box: Container, engine: Engine) -> None:
    async with exporter() as exports:
        manager = exports.open(plan_container(box, PAUSE))
        stream = await manager.__aenter__()
        await _first(stream)
        assert engine.state == "paused"
    assert engine.state == "running"
    await manager.__aexit__(None, None, None)


async def test_an_export_that_hangs_is_resumed_for(box: Container, engine: Engine) -> None:
    hangs, go = threading.Event(), threading.Event()

    def waits() -> None:
        if engine.state == "paused":
            hangs.set()
            go.wait(60)

    engine.then["still"] = waits
    async with exporter(release_limit=0.1) as exports, anyio.create_task_group() as tasks:

        async def reader() -> None:
            async with exports.open(plan_container(box, PAUSE)) as stream:
                await _rest(stream)

        tasks.start_soon(reader)
        assert await anyio.to_thread.run_sync(hangs.wait, 60)
        tasks.cancel_scope.cancel()
    assert exports.statistics().abandoned == 1
    assert engine.state == "running"
    go.set()


async def test_at_the_limit_it_is_resumed_at_once_and_the_export_fails(box: Container, engine: Engine) -> None:
    async with exporter(pause_limit=3) as exports:
        with pytest.raises(PauseExpired, match=r"paused for 3 seconds") as caught:
            async with _under_way(exports, plan_container(box, PAUSE)) as stream:
                # Nobody reads: the producer waits, and the container does not wait with it.
                assert await anyio.to_thread.run_sync(engine.becomes, "running")
                await _rest(stream)
        assert caught.value.details == {"limit": 3}
        engine.asked.clear()
        async with exports.open(plan_container(box, PAUSE)) as stream:
            assert engine.state == "paused", "the next one pauses again"
            await _rest(stream)


async def test_at_the_limit_an_engine_that_does_not_answer_is_left_to_the_watcher(
    box: Container, engine: Engine
) -> None:
    engine.faults["resume"] = UNREACHABLE
    async with exporter(pause_limit=0.1) as exports:
        with pytest.raises(PauseExpired):
            async with _under_way(exports, plan_container(box, PAUSE)) as stream:
                assert await anyio.to_thread.run_sync(engine.becomes, "running")
                await _rest(stream)


async def test_the_last_of_several_exports_resumes(box: Container, engine: Engine) -> None:
    async with exporter() as exports, exports.open(plan_container(box, PAUSE)) as one:
        async with exports.open(plan_diff(box, PAUSE)) as two:
            first, second = await _rest(one), await _first(two)
            assert engine.state == "paused"
            second += await _rest(two)
        assert engine.state == "running"
    assert first == second
    assert engine.asked.count("pause") == engine.asked.count("resume") == 1


async def test_an_export_that_leaves_does_not_resume_for_another(box: Container, engine: Engine) -> None:
    async with exporter() as exports:
        async with exports.open(plan_container(box, PAUSE)) as one:
            async with exports.open(plan_container(box, PAUSE)) as two:
                await _first(two)
            while exports.statistics().open > 1:
                await anyio.sleep(0.005)
            assert engine.state == "paused"
            await _rest(one)
        assert engine.state == "running"


async def test_many_exports_at_once_share_one_pause(box: Container, engine: Engine) -> None:
    async with exporter() as exports:
        opened = anyio.Event()
        waiting = 12

        async def one() -> None:
            nonlocal waiting
            async with exports.open(plan_container(box, PAUSE)) as stream:
                waiting -= 1
                if not waiting:
                    opened.set()
                await opened.wait()
                await _rest(stream)

        async with anyio.create_task_group() as tasks:
            for _ in range(12):
                tasks.start_soon(one)
    assert engine.asked.count("pause") == engine.asked.count("resume") == 1


async def test_one_that_comes_after_somebody_resumed_pauses_anew(box: Container, engine: Engine) -> None:
    async with exporter() as exports:
        with pytest.raises(SourceChanged):
            async with _under_way(exports, plan_container(box, PAUSE)) as torn:
                engine.state = "running"
                async with _under_way(exports, plan_container(box, PAUSE)) as whole:
                    assert engine.state == "paused"
                    await _rest(whole)
                assert engine.state == "running"
                engine.state = "paused"  # and even if it stands still again by now
                await _rest(torn)
    assert engine.state == "paused"
    engine.state = "running"


async def test_the_end_of_a_torn_export_leaves_the_pause_of_the_next_alone(box: Container, engine: Engine) -> None:
    async with exporter() as exports, exports.open(plan_container(box, PAUSE)) as torn:
        engine.state = "running"
        async with _under_way(exports, plan_container(box, PAUSE)) as whole:
            with pytest.raises(SourceChanged):
                await _rest(torn)
            assert engine.state == "paused"
            await _rest(whole)


def test_after_closing_nothing_is_paused(engine: Engine) -> None:
    pauses = Pauses()
    with pauses.paused(FakeFreezer(engine), "container c"):
        assert repr(pauses) == "<Pauses 1 containers paused>"
        pauses.close()
        assert engine.state == "running"
        with pytest.raises(Draining), pauses.paused(FakeFreezer(engine), "container c"):
            pass
    assert repr(pauses) == "<Pauses 0 containers paused>"


def test_no_watcher_no_pause(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr("subprocess.Popen", fails)
    with pytest.raises(StreamerError, match="cannot start"), Pauses().paused(FakeFreezer(engine), "container c"):
        pass
    assert "pause" not in engine.asked


def _no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fails)


def test_no_timer_no_pause(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    _no_threads(monkeypatch)
    with (
        pytest.raises(StreamerError, match="cannot start the thread"),
        Pauses().paused(FakeFreezer(engine), "container c"),
    ):
        pass
    assert "pause" not in engine.asked


def test_without_threads_the_watcher_still_resumes(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    engine.faults["resume"] = UNREACHABLE
    with pytest.raises(EngineUnreachable), Pauses().paused(FakeFreezer(engine), "container c"):
        _no_threads(monkeypatch)
    monkeypatch.undo()
    assert engine.becomes("running")
    deadline = time.monotonic() + 60
    while watchers():
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert subprocess.run(["true"], check=False).returncode == 0  # and takes the other's exit status


def test_the_limit_counts_from_the_pause_on(engine: Engine) -> None:
    """Not from when the engine was asked."""
    engine.then["pause"] = lambda: time.sleep(1.5)
    with Pauses(1).paused(FakeFreezer(engine), "container c") as hold:
        hold.check()
        assert engine.becomes("running")
        with pytest.raises(PauseExpired):
            hold.check()


@pytest.mark.parametrize("planned", [plan_container, plan_diff])
def test_the_container_that_it_runs_in_is_not_paused(
    box: Container, engine: Engine, planned: Callable[..., ExportPlan], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamer.export.pause.is_itself", lambda identity, snapshot: identity == box.id)
    with pytest.raises(Conflict, match="cannot pause container c of store none: streamer itself runs in it"):
        planned(box, PAUSE)
    planned(box, Options())
    assert engine.asked == []


def test_a_watcher_that_was_ended_is_not_missed_until_needed(engine: Engine) -> None:
    with Pauses().paused(FakeFreezer(engine), "container c") as hold:
        (watcher,) = watchers()
        os.kill(int(watcher), signal.SIGKILL)
        hold.over()
    assert engine.state == "running"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_for_everybody_do_not_end_the_watcher(engine: Engine, number: signal.Signals) -> None:
    with Pauses().paused(FakeFreezer(engine), "container c"):
        (watcher,) = watchers()
        assert os.getsid(int(watcher)) != os.getsid(0)
        os.kill(int(watcher), number)
        os.kill(int(watcher), signal.SIGCONT)
        assert os.waitpid(int(watcher), os.WNOHANG) == (0, 0)
        deadline = time.monotonic() + 60
        while len(links := _open_files(watcher)) != 1:  # it may still be starting, and open its libraries
            assert time.monotonic() < deadline, links


def _open_files(pid: str) -> set[str]:
    links = set()
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            links.add(os.readlink(f"/proc/{pid}/fd/{fd}"))
    return links - {"/dev/null"}
