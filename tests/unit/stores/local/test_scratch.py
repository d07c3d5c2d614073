"""Scratch directories: gone on every way out, however often whoever used them is cancelled."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest
from anyio import CapacityLimiter, to_thread
from support import leaks

from streamer.stores.local.state import State
from streamer.stores.local.store import LocalStore


class Gate:
    """A step of the store's that waits, in its thread, until it is let on."""

    def __init__(self) -> None:
        self.reached, self.on = threading.Event(), threading.Event()

    def hold(self) -> None:
        self.reached.set()
        assert self.on.wait(10)


async def reached(gate: Gate) -> None:
    await to_thread.run_sync(gate.reached.wait, 10, limiter=CapacityLimiter(1))


@contextmanager
def removals_wait(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate, original = Gate(), State.discard

    def discard(self: State, folder: str, name: str) -> None:
        gate.hold()
        original(self, folder, name)

    with monkeypatch.context() as patched:
        patched.setattr(State, "discard", discard)
        try:
            yield gate
        finally:
            gate.on.set()


def left(state: Path) -> list[str]:
    return [*os.listdir(state / "staging"), *os.listdir(state / "trash")]


async def cancelled(task: asyncio.Task[None], times: int) -> None:
    """As aiohttp does it: natively, each time delivered before the next."""
    for _ in range(times):
        task.cancel()
        for _ in range(10):
            await asyncio.sleep(0)


@pytest.mark.parametrize("times", [1, 2, 3])
async def test_cancelled_in_the_block(times: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with LocalStore.open(tmp_path) as store:
        before, used = leaks.held(), asyncio.Event()

        async def use() -> None:
            async with store.scratch() as place:
                (place / "file").write_text("data")
                used.set()
                await asyncio.Event().wait()

        with removals_wait(monkeypatch) as gate:
            task = asyncio.create_task(use())
            await used.wait()
            await cancelled(task, 1)
            await reached(gate)
            await cancelled(task, times - 1)
            assert not task.done(), "it waits for the removal"
            gate.on.set()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert left(tmp_path) == []
        assert await leaks.settles(before) == []


@pytest.mark.parametrize("times", [1, 2, 3])
async def test_cancelled_again_before_the_removal_begins(times: int, tmp_path: Path) -> None:
    """All at once: the second one meets the wait for a thread."""
    async with LocalStore.open(tmp_path) as store:
        before, used = leaks.held(), asyncio.Event()

        async def use() -> None:
            async with store.scratch():
                used.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(use())
        await used.wait()
        for _ in range(times):
            task.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert left(tmp_path) == []
        assert await leaks.settles(before) == []


@pytest.mark.parametrize("times", [1, 2, 3])
async def test_cancelled_while_it_is_made(times: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Gate()
    original = os.mkdir

    def mkdir(path: str, *arguments: int, dir_fd: int | None = None) -> None:
        original(path, *arguments, dir_fd=dir_fd)
        made.hold()

    async with LocalStore.open(tmp_path) as store:
        before = leaks.held()

        async def use() -> None:
            async with store.scratch():
                raise AssertionError("it was cancelled before")

        with monkeypatch.context() as patched:
            patched.setattr(os, "mkdir", mkdir)
            task = asyncio.create_task(use())
            await reached(made)
            await cancelled(task, times)
            made.on.set()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert left(tmp_path) == []
        assert await leaks.settles(before) == []


async def test_nobody_else_holds_up_a_removal(tmp_path: Path) -> None:
    async with LocalStore.open(tmp_path) as store:
        end, rest, ended = threading.Event(), store._core.rest, []

        async def hang() -> None:
            ended.append(await to_thread.run_sync(end.wait, 5, limiter=rest))

        async with anyio.create_task_group() as tasks:
            async with store.scratch():
                for _ in range(int(rest.total_tokens)):
                    tasks.start_soon(hang)
                while rest.available_tokens:
                    await anyio.lowlevel.checkpoint()
            end.set()
        assert all(ended), "the block was left before the others had ended"
        assert left(tmp_path) == []


async def test_what_the_block_raises_comes_out_as_it_is(tmp_path: Path) -> None:
    async with LocalStore.open(tmp_path) as store:
        with pytest.raises(ValueError, match="as it is"):
            async with store.scratch():
                raise ValueError("as it is")
        assert left(tmp_path) == []
