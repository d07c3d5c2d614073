"""Background work: a caller that leaves does not tear it, a service that ends stops it."""

from __future__ import annotations

import asyncio

import anyio
import pytest

from streamer.errors import Draining, NotFound
from streamer.export.background import background


async def test_results_and_errors_come_back():
    async with background() as work:

        async def fails() -> None:
            raise NotFound("nothing")

        async def gives() -> int:
            return 42

        assert await work.run(gives) == 42
        with pytest.raises(NotFound):
            await work.run(fails)
        assert work.running == 0


@pytest.mark.parametrize("cancels", [1, 3])
async def test_a_cancelled_caller_leaves_the_work_running(cancels):
    done = asyncio.Event()
    async with background() as work:

        async def slow() -> None:
            await asyncio.sleep(0.05)
            done.set()

        caller = asyncio.create_task(work.run(slow))
        await asyncio.sleep(0)
        for _ in range(cancels):
            caller.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await caller
        await work.idle()
        assert done.is_set()


async def test_leaving_stops_what_runs_and_tells_who_waits():
    undone = []

    async def endless() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            undone.append(True)

    async with background() as work:
        caller = asyncio.create_task(work.run(endless))
        await asyncio.sleep(0.01)
    with pytest.raises(Draining):
        await caller
    assert undone == [True]


async def test_nothing_is_started_once_refused():
    async with background() as work:
        work.refuse(Draining("shutting down"))

        async def never() -> None:
            raise AssertionError

        with pytest.raises(Draining):
            await work.run(never)


async def test_what_the_block_raises_comes_out_as_it_is():
    with pytest.raises(KeyError):
        async with background():
            raise KeyError
