"""A body past the transport and past the loop: the export's thread sends it, straight into the connection's socket.

A transport copies what its socket does not take at once into a buffer of its own, twice for a chunked body, and a loop
that sends gigabytes has time for little else. So once the headers have left, the thread that makes the archive sends
it: what the socket does not take stays where it is, and a client that stalls holds back its export and nothing else.
What lies in a file that nobody writes to any more is not even read: the kernel sends it from its cache.
"""

from __future__ import annotations

import os
import select
import socket
import threading

from aiohttp import web

from streamer.errors import Busy
from streamer.export.exporter import RETRY_AFTER, ExportStream
from streamer.tar.region import Chunk, Region
from streamer.web.outlet import Outlet

_TICK = 1000
"""Milliseconds after which a thread that waits looks whether there still is a loop that could break it off."""


class DirectOutlet(Outlet):
    """For connections that nothing stands between: TCP and unix sockets without TLS.

    The socket is used by the export's thread and closed by whoever is last with it, that thread or the loop.
    """

    def __init__(self, request: web.Request, answer: web.StreamResponse, limit: float) -> None:
        super().__init__(request, answer, limit)
        # A descriptor of its own: the transport closes its socket whenever it likes, and the event loop watches that
        # one for what comes in.
        try:
            self._socket: socket.socket = self._transport.get_extra_info("socket").dup()
        except OSError as error:
            raise Busy(f"cannot send an archive: {error.strerror}", retry_after=RETRY_AFTER) from error
        self._using = threading.Lock()
        self._left = False

    async def send(self, source: ExportStream) -> None:
        source.hand_over(self._take)
        await super().send(source)

    def _take(self, chunk: Chunk) -> None:
        """All of the chunk, in the export's thread; ConnectionError once the client is gone."""
        try:
            with self._using:
                self._alive()
                self._framed(chunk)
        except OSError as error:
            raise ConnectionResetError(f"the connection is lost: {error.strerror or error}") from error
        finally:
            self._close_if_left()

    def _framed(self, chunk: Chunk) -> None:
        size = len(chunk)
        if self._answer.chunked:
            self._all(b"%x\r\n" % size, socket.MSG_MORE)
        if isinstance(chunk, Region):
            self._region(chunk)
        else:
            self._all(chunk)
        if self._answer.chunked:
            self._all(b"\r\n")
        self.sent += size

    def _all(self, data: bytes, flags: int = 0) -> None:
        left = memoryview(data)
        while left:
            try:
                count = self._socket.send(left, flags)
            except BlockingIOError:
                self._wait()
            else:
                left = left[count:]
                self._written += count

    def _region(self, region: Region) -> None:
        offset, end = region.offset, region.offset + region.size
        while offset < end:
            try:
                count = os.sendfile(self._socket.fileno(), region.descriptor, offset, end - offset)
            except BlockingIOError:
                self._wait()
                continue
            except OSError:
                count = 0  # the file's or the connection's fault: reading and sending tell which
            if not count:
                self._all(region[offset - region.offset :])
                return
            offset += count
            self._written += count
        region.settled()

    def _wait(self) -> None:
        ready = select.poll()
        ready.register(self._socket, select.POLLOUT)
        self._waits()
        try:
            while not ready.poll(_TICK):
                self._alive()
        finally:
            self._went_on()
        self._alive()

    def _alive(self) -> None:
        if self._left or self._transport.is_closing() or self._loop.is_closed():
            raise ConnectionResetError("the client is gone")

    def _break(self) -> None:
        super()._break()
        try:
            self._socket.shutdown(socket.SHUT_RDWR)  # a thread that waits for room must not wait for it any longer
        except OSError:
            pass  # it is not connected any more

    def _release(self) -> None:
        self._left = True
        self._close_if_left()

    def _close_if_left(self) -> None:
        if self._left and self._using.acquire(blocking=False):
            self._socket.close()
            self._using.release()
