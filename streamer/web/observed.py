"""What is known of a request afterwards: its ID, one line in the log, one span."""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog
from aiohttp import web

from streamer.log import logger
from streamer.tracing import span
from streamer.web.callers import CALLER, peer
from streamer.web.site import SITE

log = logger("streamer.access")

HEADER = "X-Request-Id"
_SANE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/+=@~-]{0,127}")
_PROBES = frozenset({"/healthz", "/readyz", "/metrics"})
"""Asked every few seconds by machines: nothing that a log should be full of."""


@dataclass(slots=True)
class Record:
    """What handlers tell of a request for its line in the log."""

    id: str
    bytes: int | None = None
    """Of the body, where it was streamed."""
    outcome: str | None = None
    """How a streamed body ended."""


RECORD = web.RequestKey("record", Record)


@web.middleware
async def observed(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """The outermost middleware. The ID is the one that the client or a proxy gave, if it is harmless, and otherwise a
    new one; it is in the answer, in every line of the log that this request causes, and in those of its export."""
    given = request.headers.get(HEADER, "")
    record = Record(given if _SANE.fullmatch(given) else secrets.token_hex(8))
    request[RECORD] = record
    began = time.monotonic()
    status, size = 0, 0
    with (
        structlog.contextvars.bound_contextvars(request_id=record.id),
        span("request", request.headers, method=request.method, path=request.path, request_id=record.id),
    ):
        try:
            answer = await handler(request)
            status = answer.status
            size = answer.content_length or 0 if isinstance(answer, web.Response) and request.method != "HEAD" else 0
            return answer
        except asyncio.CancelledError:
            record.outcome = record.outcome or "client_gone"
            raise
        except ConnectionError:
            record.outcome = record.outcome or "client_gone"
            raise
        finally:
            if request.app[SITE].access_log:
                caller = request.get(CALLER)
                (log.debug if request.path in _PROBES else log.info)(
                    "request",
                    method=request.method,
                    path=request.raw_path.partition("?")[0][:1000],  # the query of a build may hold passwords
                    status=status or None,
                    bytes=size if record.bytes is None else record.bytes,
                    seconds=round(time.monotonic() - began, 4),
                    client=caller.client if caller is not None else peer(request),
                    **({"outcome": record.outcome} if record.outcome is not None else {}),
                )


async def signed(request: web.Request, answer: web.StreamResponse) -> None:
    """Puts the ID into an answer that is about to be sent."""
    record = request.get(RECORD)
    if record is not None:
        answer.headers[HEADER] = record.id
