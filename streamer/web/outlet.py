"""The way of a body to its client, and the watch over a client that does not take it.

`direct` sends past the transport, straight into the connection's socket; `secured` through a transport that encrypts.
Both promise what is said of `Outlet`.
"""

from __future__ import annotations

import abc
import asyncio
from types import TracebackType
from typing import ClassVar, Self, TypeAlias

from aiohttp import web

from streamer.errors import Stalled
from streamer.pace import ENOUGH

Parts: TypeAlias = list[bytes | memoryview]

_PIECE = 512 << 10
"""Bytes sent at a time, so that no client keeps the event loop from the others for long."""


class Outlet(abc.ABC):
    """Sends an answer: its headers on entering, its body by `write` and `finish`. Inside the block nobody else writes.

    To be entered as soon as it is made, for it may hold a descriptor; Busy if there is none left. Leaving the block by
    an exception breaks the connection off: nothing else tells a client that this is no clean end. ConnectionError once
    the client is gone.

    Stalled if the client takes less than 64 KiB in `limit` seconds while bytes wait for it. A timer and two counters
    instead of a deadline around each write: a client that takes one byte at a time lets writes through now and then,
    and a slow source is not the client's fault.
    """

    NOTHING: ClassVar[int] = 0
    """The high-water mark with which draining waits for everything that a transport still has."""

    def __init__(self, request: web.Request, answer: web.StreamResponse, limit: float) -> None:
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client is gone")
        self._request = request
        self._answer = answer
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._limit = limit
        self._written = 0
        """Bytes that were taken from us."""
        self._seen = 0
        self._blocked = 0.0
        self._since: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._stalled = False

    @property
    def stalled(self) -> bool:
        """Whether the connection was broken off because its client took too little. What is raised then may be
        another's, a cancellation because the connection is lost."""
        return self._stalled

    async def __aenter__(self) -> Self:
        self._timer = self._loop.call_later(self._limit, self._look)
        try:
            await self._answer.prepare(self._request)
            await self._flushed()
        except BaseException as error:
            self._close(error)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close(error)

    async def write(self, chunk: bytes) -> None:
        """Everything of the chunk, framed as the answer's headers announced; back when there is room for another."""
        view = memoryview(chunk)
        for start in range(0, len(view), _PIECE):
            piece = view[start : start + _PIECE]
            await self._send([b"%x\r\n" % len(piece), piece, b"\r\n"] if self._answer.chunked else [piece])

    async def finish(self) -> None:
        """The end of the body, and the client's taking of all that still waits for it: nobody would watch over the
        rest, and a client that never reads it would hold its connection for ever."""
        self._transport.set_write_buffer_limits(high=self.NOTHING, low=0)
        self._since = self._loop.time()
        try:
            await self._answer.write_eof()
        finally:
            self._went_on()
            self._transport.set_write_buffer_limits()
        if self._stalled:  # a wait for the transport may end well although it was aborted
            raise ConnectionResetError("the client is gone")

    @abc.abstractmethod
    async def _send(self, parts: Parts) -> None:
        """All of the parts, at once or after waiting, which `_since` and `_went_on` tell the watch."""

    @abc.abstractmethod
    def _release(self) -> None:
        """Gives back what the outlet holds of its own."""

    @abc.abstractmethod
    def _wake(self) -> None:
        """Ends a `_send` that waits, once the connection is broken off."""

    async def _flushed(self) -> None:
        """Nothing waits in the transport any more, of the headers or of an answer before them."""
        self._transport.set_write_buffer_limits(high=self.NOTHING, low=0)
        self._since = self._loop.time()
        try:
            await self._request.writer.drain()
        finally:
            self._went_on()
            self._transport.set_write_buffer_limits()

    def _went_on(self) -> None:
        if self._since is not None:
            self._blocked += self._loop.time() - self._since
            self._since = None

    def _look(self) -> None:
        now = self._loop.time()
        blocked = self._blocked + (now - self._since if self._since is not None else 0)
        if self._since is not None and blocked > 0.9 * self._limit and self._written - self._seen < ENOUGH:
            self._stalled = True
            self._transport.abort()
            self._wake()
            return
        self._seen, self._blocked = self._written, 0.0
        if self._since is not None:
            self._since = now
        self._timer = self._loop.call_later(self._limit, self._look)

    def _close(self, error: BaseException | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if error is not None:
            self._transport.abort()
        self._release()
        if self._stalled and isinstance(error, ConnectionError):
            raise Stalled(f"the client took less than {ENOUGH} bytes in {self._limit:g} seconds") from error
