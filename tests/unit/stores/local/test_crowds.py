"""Many at once: nobody waits for a thread that a waiter holds, look-ups answer, and too many are refused."""

from __future__ import annotations

import asyncio
import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest
from support import images
from support.images import file, layer

from streamer.errors import Busy
from streamer.stores.local import core as cores
from streamer.stores.local.store import LocalStore


def tiny(number: int) -> images.Bytes:
    return images.Bytes(layer(file(f"f{number}", b"abc")))


async def imported(store: LocalStore, number: int) -> int:
    """How often it had to come again."""
    for again in range(10_000):
        try:
            await store.import_archive(tiny(number), name=f"x{number}:1")
            return again
        except Busy as error:
            assert error.details["retry_after"]
            await anyio.sleep(0.01)
    raise AssertionError("never admitted")


@contextmanager
def locked(state: Path) -> Iterator[None]:
    """The store's lock as another process holds it: locks of one file opened twice know nothing of one another."""
    fd = os.open(state / "lock", os.O_RDWR)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


async def look_up(store: LocalStore) -> None:
    assert (await store.image("base:1")).layers
    assert await store.images()
    assert await store.layers()
    await store.containers()


async def test_many_imports_and_containers_and_look_ups(tmp_path: Path) -> None:
    limit = anyio.to_thread.current_default_thread_limiter()
    async with LocalStore.open(tmp_path) as store:
        await store.import_archive(tiny(-1), name="base:1")
        before, limit.total_tokens = limit.total_tokens, 1  # what others do there is not for the store to wait for
        try:
            with anyio.fail_after(250):
                async with anyio.create_task_group() as tasks:
                    for number in range(60):
                        tasks.start_soon(imported, store, number)
                        tasks.start_soon(store.create, "base:1")
                        tasks.start_soon(look_up, store)
        finally:
            limit.total_tokens = before
        assert len(await store.images()) == 61
        assert len(await store.containers()) == 60
        assert os.listdir(tmp_path / "staging") == os.listdir(tmp_path / "trash") == []


async def test_look_ups_answer_while_another_process_has_the_lock(tmp_path: Path) -> None:
    async with LocalStore.open(tmp_path) as store:
        await store.import_archive(tiny(-1), name="base:1")
        async with anyio.create_task_group() as tasks:
            with locked(tmp_path):
                for number in range(60):
                    tasks.start_soon(imported, store, number)
                    tasks.start_soon(store.create, "base:1")
                threads, until = threading.active_count(), time.monotonic() + 1
                while time.monotonic() < until:
                    with anyio.fail_after(60):
                        await look_up(store)
                    await anyio.sleep(0.02)
                assert threading.active_count() <= threads + 1  # nobody waits in one
                assert os.listdir(tmp_path / "staging") == []
                assert len(await store.images()) == 1
        assert len(await store.images()) == 61


async def test_who_waits_for_the_lock_can_be_cancelled(tmp_path: Path) -> None:
    async with LocalStore.open(tmp_path) as store:
        await store.import_archive(tiny(-1), name="base:1")
        with locked(tmp_path):
            begun = time.monotonic()
            with anyio.move_on_after(0.1) as scope:
                async with anyio.create_task_group() as tasks:
                    for _ in range(20):
                        tasks.start_soon(store.create, "base:1")
                    tasks.start_soon(imported, store, 1)
                    tasks.start_soon(store.remove_image, "base:1")
            assert scope.cancelled_caught
            assert time.monotonic() - begun < 60
        assert len(await store.images()) == 1
        assert not (await store.containers()).items
        assert os.listdir(tmp_path / "staging") == []
        await store.create("base:1")


class Slow(images.Bytes):
    """Gives nothing before it is told to."""

    def __init__(self, number: int, go_on: threading.Event) -> None:
        super().__init__(layer(file(f"f{number}", b"abc")))
        self._go_on = go_on

    def read(self, n: int) -> bytes:
        assert self._go_on.wait(60)
        return super().read(n)


async def test_too_many_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    go_on = threading.Event()
    allowed = cores.IMPORTS + cores.WAITING
    async with LocalStore.open(tmp_path) as store:
        await store.import_archive(tiny(-1), name="base:1")
        await store.create("base:1", "box")
        async with anyio.create_task_group() as tasks:
            try:
                for number in range(allowed):
                    tasks.start_soon(store.import_archive, Slow(number, go_on))
                while len(os.listdir(tmp_path / "staging")) < allowed:
                    await anyio.sleep(0.005)
                for _ in range(5):
                    with pytest.raises(Busy) as raised:
                        await store.import_archive(tiny(0))
                    assert raised.value.details["retry_after"] == cores.RETRY_AFTER
                with pytest.raises(Busy):
                    await store.commit("box", tiny(0))
                assert len(os.listdir(tmp_path / "staging")) == allowed
                await look_up(store)
            finally:
                go_on.set()
        await asyncio.gather(*(store.import_archive(tiny(number)) for number in range(allowed)))
        assert len(await store.images()) == 1 + 2 * allowed
