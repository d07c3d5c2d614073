"""One connection: what aiohttp's own does not do right for requests that are malformed, for long uploads, and for
peers that take their time or are gone."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from typing import Any, cast

from aiohttp import hdrs, web
from aiohttp.http import RawRequestMessage
from aiohttp.http_exceptions import BadHttpMessage, InvalidURLError
from aiohttp.streams import StreamReader

from streamer.errors import StreamerError
from streamer.export.exporter import RETRY_AFTER
from streamer.web.limits import Connections, Patience
from streamer.web.peers import origin
from streamer.web.problems import Malformed, response

_FULL = (
    f"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: {RETRY_AFTER}\r\nContent-Length: 0\r\n\r\n"
)
_SLOW = "HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
_TOLD = 1.0
"""Seconds in which a peer may read why it is refused; closed at once, its own request would reset the connection."""


class Connection(web.RequestHandler):
    """aiohttp's connection with some things mended; tests hold each, for the attributes used are aiohttp's own."""

    __slots__ = ("_body", "_books", "_heading", "_patience", "_peer", "_refused")

    _body: StreamReader | None
    """Of the last request that came."""
    _heading: asyncio.TimerHandle | None
    """Runs out if the headers of a request take too long."""

    def __init__(self, *arguments: Any, books: Connections, patience: Patience, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._books = books
        self._patience = patience
        self._body = None
        self._heading = None
        self._refused: asyncio.TimerHandle | None = None
        self._peer = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        connection = transport.get_extra_info("socket")
        self._peer = origin(connection)
        if not self._books.enter(self._peer):
            plain = cast("asyncio.Transport", transport)
            plain.write(_FULL.encode())
            self._refused = self._loop.call_later(_TOLD, plain.abort)
            return
        _noticing(connection, self._patience.unacknowledged)
        super().connection_made(transport)
        self._expect_headers()

    def data_received(self, data: bytes) -> None:
        """Broken framing in the middle of a body ends that body: aiohttp queues the error behind the request, whose
        handler would go on waiting for the rest."""
        if self._refused is not None:
            return
        requests, body = self._request_count, self._body
        super().data_received(data)
        for message, payload in self._messages:
            if isinstance(message, RawRequestMessage):
                self._body = payload
            elif self._body is not None and not self._body.is_eof():
                self._body.set_exception(web.RequestPayloadError("broken framing"))
        if self._request_count != requests:
            self._forget_headers()
        elif data and self._heading is None and (body is None or body.is_eof()):
            self._expect_headers()

    def eof_received(self) -> None:
        if self._refused is None:
            super().eof_received()

    def connection_lost(self, exc: BaseException | None) -> None:
        """A connection whose request was answered, but whose body was not read to its end, is over once it is lost:
        aiohttp would wait ten seconds for the rest."""
        if self._refused is not None:
            self._refused.cancel()
            return
        self._forget_headers()
        if self._peer:
            self._books.leave(self._peer)
            self._peer = ""
        answered = self._task_handler if self._current_request is None else None
        super().connection_lost(exc)
        if answered is not None:
            answered.cancel()

    def _expect_headers(self) -> None:
        self._heading = self._loop.call_later(self._patience.headers, self._too_slow)

    def _forget_headers(self) -> None:
        if self._heading is not None:
            self._heading.cancel()
            self._heading = None

    def _too_slow(self) -> None:
        """aiohttp has no limit for a request that never becomes one."""
        self._heading = None
        if self._current_request is not None or self._messages:
            self._expect_headers()  # of the next request, while one is answered
            return
        self._books.slow += 1
        transport = self.transport
        if transport is not None and not transport.is_closing():
            transport.write(_SLOW.encode())
            self.force_close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What the parser refuses gets a problem as everything else does, and no line in the log: whoever can connect
        could fill it. aiohttp would write a traceback there, and plain text to the client."""
        if not isinstance(exc, BadHttpMessage):
            return super().handle_error(request, status, exc, message)
        said = "its target is no URL" if isinstance(exc, InvalidURLError) else exc.message.strip().partition("\n")[0]
        error: StreamerError = Malformed(f"the request is not well-formed HTTP/1.1: {said[:300].rstrip(':.')}")
        answer = response(error, {hdrs.CONNECTION: "close"})
        answer.force_close()
        return answer


def _noticing(connection: socket.socket | None, unacknowledged: float) -> None:
    """The kernel ends the connection of a peer that is gone without a word: by asking while nothing is sent, and else
    by counting how long nothing was acknowledged."""
    if connection is None or connection.family == socket.AF_UNIX:
        return
    with suppress(OSError):  # the peer is gone already
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(unacknowledged * 1000))
