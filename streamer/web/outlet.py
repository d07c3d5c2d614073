"""The way of a body to its client: straight into the connection's socket.

A transport copies what its socket does not take at once into a buffer of its own, twice for a chunked body. For the
gigabytes of an archive that is half of the work. So once the headers have left, the body goes past the transport; what
the socket does not take stays where it is, and a client that stalls holds back its export and nothing else.
"""

from __future__ import annotations

import asyncio
import socket
from types import TracebackType

from aiohttp import web

from streamer.errors import Busy, Stalled, StreamerError
from streamer.export.exporter import RETRY_AFTER

_PIECE = 512 << 10
"""Bytes handed to the socket at a time, so that no client keeps the event loop from the others for long."""
_ENOUGH = 64 << 10
"""Bytes that a client has to take for its time to begin anew."""


class Outlet:
    """Sends an answer: its headers on entering, its body by `write` and `finish`. Inside the block nobody else writes.

    To be entered as soon as it is made, for it holds a descriptor; Busy if there is none left. Leaving the block by an
    exception breaks the connection off: nothing else tells a client that this is no clean end. ConnectionError once
    the client is gone.

    Stalled if the client takes less than 64 KiB in `limit` seconds while bytes wait for it. A timer and two counters
    instead of a deadline around each write: a client that takes one byte at a time lets writes through now and then,
    and a slow source is not the client's fault.
    """

    def __init__(self, request: web.Request, answer: web.StreamResponse, limit: float) -> None:
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client is gone")
        if transport.get_extra_info("sslcontext") is not None:
            raise StreamerError("archives are sent over plain connections only")
        self._request = request
        self._answer = answer
        self._transport = transport
        # A descriptor of its own: the transport closes its socket whenever it likes, and the event loop watches that
        # one for what comes in.
        try:
            self._socket: socket.socket = transport.get_extra_info("socket").dup()
        except OSError as error:
            raise Busy(f"cannot send an archive: {error.strerror}", retry_after=RETRY_AFTER) from error
        self._loop = asyncio.get_running_loop()
        self._limit = limit
        self._written = 0
        """Bytes that the socket took."""
        self._seen = 0
        self._blocked = 0.0
        self._since: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._waiting: asyncio.Future[None] | None = None
        self._stalled = False

    @property
    def stalled(self) -> bool:
        """Whether the connection was broken off because its client took too little. What is raised then may be
        another's, a cancellation because the connection is lost."""
        return self._stalled

    async def __aenter__(self) -> Outlet:
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
        """Everything of the chunk, framed as the answer's headers announced; back when the socket has taken it."""
        view = memoryview(chunk)
        for start in range(0, len(view), _PIECE):
            piece = view[start : start + _PIECE]
            parts: list[bytes | memoryview] = (
                [b"%x\r\n" % len(piece), piece, b"\r\n"] if self._answer.chunked else [piece]
            )
            await self._send(parts)

    async def finish(self) -> None:
        """The end of the body, and the client's taking of all that still waits for it: nobody would watch over the
        rest, and a client that never reads it would hold its connection for ever."""
        self._transport.set_write_buffer_limits(high=0)
        self._since = self._loop.time()
        try:
            await self._answer.write_eof()
        finally:
            self._went_on()
            self._transport.set_write_buffer_limits()
        if self._stalled:  # a wait for the transport may end well although it was aborted
            raise ConnectionResetError("the client is gone")

    async def _flushed(self) -> None:
        """Nothing waits in the transport any more, of the headers or of an answer before them."""
        self._transport.set_write_buffer_limits(high=0)
        self._since = self._loop.time()
        try:
            await self._request.writer.drain()
        finally:
            self._went_on()
            self._transport.set_write_buffer_limits()

    async def _send(self, parts: list[bytes | memoryview]) -> None:
        waited = False
        while True:
            if self._transport.is_closing():
                raise ConnectionResetError("the client is gone")
            try:
                count = self._socket.sendmsg(parts)
            except (BlockingIOError, InterruptedError):
                count = 0
            except OSError as error:
                raise ConnectionResetError(f"the connection is lost: {error.strerror}") from error
            self._written += count
            while parts and count >= len(parts[0]):
                count -= len(parts.pop(0))
            if not parts:
                if not waited:
                    # A client as fast as its export would otherwise have the event loop for itself.
                    await asyncio.sleep(0)
                return
            parts[0] = memoryview(parts[0])[count:]
            await self._writable()
            waited = True

    async def _writable(self) -> None:
        self._waiting = waiting = self._loop.create_future()
        self._since = self._loop.time()
        self._loop.add_writer(self._socket, _settle, waiting)
        try:
            await waiting
        finally:
            self._loop.remove_writer(self._socket)
            self._waiting = None
            self._went_on()

    def _went_on(self) -> None:
        if self._since is not None:
            self._blocked += self._loop.time() - self._since
            self._since = None

    def _look(self) -> None:
        now = self._loop.time()
        blocked = self._blocked + (now - self._since if self._since is not None else 0)
        if self._since is not None and blocked > 0.9 * self._limit and self._written - self._seen < _ENOUGH:
            self._stalled = True
            self._transport.abort()
            if self._waiting is not None:
                _settle(self._waiting)
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
        self._socket.close()
        if self._stalled and isinstance(error, ConnectionError):
            raise Stalled(f"the client took less than {_ENOUGH} bytes in {self._limit:g} seconds") from error


def _settle(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)
