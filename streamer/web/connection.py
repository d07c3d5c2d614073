"""One connection: what aiohttp's own does not do right for requests that are malformed, and for long uploads."""

from __future__ import annotations

import asyncio

from aiohttp import hdrs, web
from aiohttp.http import RawRequestMessage
from aiohttp.http_exceptions import BadHttpMessage, InvalidURLError
from aiohttp.streams import StreamReader

from streamer.errors import StreamerError
from streamer.web.problems import Malformed, response


class Connection(web.RequestHandler):
    """aiohttp's connection with three things mended; tests hold each, for the attributes used are aiohttp's own."""

    __slots__ = ("_body",)

    _body: StreamReader | None
    """Of the last request that came."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._body = None
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Broken framing in the middle of a body ends that body: aiohttp queues the error behind the request, whose
        handler would go on waiting for the rest."""
        super().data_received(data)
        for message, payload in self._messages:
            if isinstance(message, RawRequestMessage):
                self._body = payload
            elif self._body is not None and not self._body.is_eof():
                self._body.set_exception(web.RequestPayloadError("broken framing"))

    def connection_lost(self, exc: BaseException | None) -> None:
        """A connection whose request was answered, but whose body was not read to its end, is over once it is lost:
        aiohttp would wait ten seconds for the rest."""
        answered = self._task_handler if self._current_request is None else None
        super().connection_lost(exc)
        if answered is not None:
            answered.cancel()

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
