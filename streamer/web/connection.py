"""One connection, for what goes wrong before any handler: a request that aiohttp's parser refuses."""

from __future__ import annotations

from aiohttp import hdrs, web
from aiohttp.http_exceptions import BadHttpMessage, InvalidURLError

from streamer.errors import StreamerError
from streamer.web.problems import Malformed, response


class Connection(web.RequestHandler):
    """aiohttp's connection, except that such requests get a problem as everything else does, and no line in the log:
    whoever can connect could fill it. aiohttp would write a traceback there, and plain text to the client."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if not isinstance(exc, BadHttpMessage):
            return super().handle_error(request, status, exc, message)
        said = "its target is no URL" if isinstance(exc, InvalidURLError) else exc.message.strip().partition("\n")[0]
        error: StreamerError = Malformed(f"the request is not well-formed HTTP/1.1: {said[:300].rstrip(':.')}")
        answer = response(error, {hdrs.CONNECTION: "close"})
        answer.force_close()
        return answer
