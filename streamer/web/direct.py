"""A body past the transport: straight into the connection's socket.

A transport copies what its socket does not take at once into a buffer of its own, twice for a chunked body. For the
gigabytes of an archive that is half of the work. So once the headers have left, the body goes past the transport; what
the socket does not take stays where it is, and a client that stalls holds back its export and nothing else.
"""

from __future__ import annotations

import asyncio
import socket

from aiohttp import web

from streamer.errors import Busy
from streamer.export.exporter import RETRY_AFTER
from streamer.web.outlet import Outlet, Parts


class DirectOutlet(Outlet):
    """For connections that nothing stands between: TCP and unix sockets without TLS."""

    def __init__(self, request: web.Request, answer: web.StreamResponse, limit: float) -> None:
        super().__init__(request, answer, limit)
        # A descriptor of its own: the transport closes its socket whenever it likes, and the event loop watches that
        # one for what comes in.
        try:
            self._socket: socket.socket = self._transport.get_extra_info("socket").dup()
        except OSError as error:
            raise Busy(f"cannot send an archive: {error.strerror}", retry_after=RETRY_AFTER) from error
        self._waiting: asyncio.Future[None] | None = None

    async def _send(self, parts: Parts) -> None:
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

    def _wake(self) -> None:
        if self._waiting is not None:
            _settle(self._waiting)

    def _release(self) -> None:
        self._socket.close()


def _settle(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)
