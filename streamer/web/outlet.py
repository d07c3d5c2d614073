"""The way of a body to its client, and the watch over a client that does not take it.

Here through the transport, as it has to be where that encrypts; `direct` sends past it, straight into the connection's
socket. Both promise what is said of `Outlet`.
"""

from __future__ import annotations

import asyncio
import threading
from types import TracebackType
from typing import ClassVar, Self

from aiohttp import web

from streamer.errors import Stalled
from streamer.export.exporter import ExportStream
from streamer.pace import ENOUGH

_PIECE = 512 << 10
"""Bytes sent at a time, so that no client keeps the event loop from the others for long."""


class Outlet:
    """Sends an answer: its headers on entering, its body by `send` and `finish`. Inside the block nobody else writes.

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
        self.sent = 0
        """Bytes of the body so far, without what frames them."""
        self._written = 0
        """Bytes that were taken from us."""
        self._watch = threading.Lock()
        """Held for what the watch counts: a client may be waited for in another thread than the loop's."""
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

    async def send(self, source: ExportStream) -> None:
        """Everything that comes from the source, framed as the answer's headers announced. Raises what that raises."""
        async for chunk in source:
            await self._write(chunk)

    async def _write(self, chunk: bytes) -> None:
        view = memoryview(chunk)
        for start in range(0, len(view), _PIECE):
            piece = view[start : start + _PIECE]
            self._transport.set_write_buffer_limits(high=self.NOTHING, low=0)
            self._waits()
            try:
                await self._answer.write(piece)
                await self._request.writer.drain()
            finally:
                self._went_on()
                self._transport.set_write_buffer_limits()
            if self._transport.is_closing():  # which ends the waiting without a word
                raise ConnectionResetError("the client is gone")
            self.sent += len(piece)
            self._written += len(piece)
            await asyncio.sleep(0)  # a client as fast as its export must not have the event loop for itself

    async def finish(self) -> None:
        """The end of the body, and the client's taking of all that still waits for it: nobody would watch over the
        rest, and a client that never reads it would hold its connection for ever."""
        self._transport.set_write_buffer_limits(high=self.NOTHING, low=0)
        self._waits()
        try:
            await self._answer.write_eof()
        finally:
            self._went_on()
            self._transport.set_write_buffer_limits()
        if self._stalled:  # a wait for the transport may end well although it was aborted
            raise ConnectionResetError("the client is gone")

    def _break(self) -> None:
        """Breaks the connection off, and with it the waiting of whoever sends."""
        self._transport.abort()

    def _release(self) -> None:
        """Gives back what the outlet holds of its own."""

    async def _flushed(self) -> None:
        """Nothing waits in the transport any more, of the headers or of an answer before them."""
        self._transport.set_write_buffer_limits(high=self.NOTHING, low=0)
        self._waits()
        try:
            await self._request.writer.drain()
        finally:
            self._went_on()
            self._transport.set_write_buffer_limits()

    def _waits(self) -> None:
        self._since = self._loop.time()

    def _went_on(self) -> None:
        with self._watch:
            if self._since is not None:
                self._blocked += self._loop.time() - self._since
                self._since = None

    def _look(self) -> None:
        now = self._loop.time()
        with self._watch:
            waits = self._since is not None
            blocked = self._blocked + (now - self._since if self._since is not None else 0)
            took = self._written - self._seen
            self._seen, self._blocked = self._written, 0.0
            if waits:
                self._since = now
        if waits and blocked > 0.9 * self._limit and took < ENOUGH:
            self._stalled = True
            self._break()
            return
        self._timer = self._loop.call_later(self._limit, self._look)

    def _close(self, error: BaseException | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if error is not None:
            self._break()
        self._release()
        if self._stalled and isinstance(error, ConnectionError):
            raise Stalled(f"the client took less than {ENOUGH} bytes in {self._limit:g} seconds") from error


class SecuredOutlet(Outlet):
    """For TLS. Of a client that does not read, one piece and the buffers of the transport below wait here."""

    NOTHING: ClassVar[int] = 1
    """asyncio's TLS pauses a writer at the mark already, and with 0 would do so with nothing left to wait for."""
