"""Bytes that come over the network, as the synchronous source that an export's own thread reads."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace

import anyio

from streamer.errors import ConsumerGone
from streamer.export.plan import ExportPlan, Session
from streamer.export.tasks import task_group
from streamer.tar.region import Chunk

_LOOK = 0.25
"""Seconds between two looks whether anybody still reads what is made of it."""


class Feed:
    """`read` in any thread but the event loop's; waits for what `receive` brings there (b"" at the end)."""

    def __init__(self, receive: Callable[[], Awaitable[bytes]]) -> None:
        self._receive = receive
        self._loop = asyncio.get_running_loop()
        self._rest = b""
        self._stopped = False
        self._check: Callable[[], None] = lambda: None

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes, none at the end. Whatever receiving raises; ConsumerGone once nobody waits any more."""
        if not self._rest:
            self._rest = self._next()
        data, self._rest = self._rest[:size], self._rest[size:]
        return data

    def _next(self) -> bytes:
        coming = asyncio.run_coroutine_threadsafe(self._received(), self._loop)
        try:
            while True:
                try:
                    return coming.result(_LOOK)
                except concurrent.futures.TimeoutError:
                    if coming.done():  # it came just now, or the time-out is the sender's own
                        return coming.result()
                    if self._stopped:
                        raise ConsumerGone("nobody waits for what comes in any more") from None
                    self._check()
        except concurrent.futures.CancelledError:
            raise ConsumerGone("nobody waits for what comes in any more") from None
        finally:
            coming.cancel()

    async def _received(self) -> bytes:
        return await self._receive()

    def stop(self) -> None:
        """A `read` that waits raises soon."""
        self._stopped = True

    def export(self, plan: ExportPlan) -> ExportPlan:
        """The plan, whose thread reads from here, such that a reader who leaves ends the waiting as well."""

        def chunks(session: Session) -> Iterator[Chunk]:
            self._check = session.check
            return plan.chunks(session)

        return replace(plan, chunks=chunks)


@asynccontextmanager
async def fed(receive: Callable[[], Awaitable[bytes]]) -> AsyncIterator[Feed]:
    """A feed; leaving the block, or being cancelled in it, stops it."""
    feed = Feed(receive)

    async def stop() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            feed.stop()

    async with task_group() as tasks:
        tasks.start_soon(stop)
        try:
            yield feed
        finally:
            feed.stop()
