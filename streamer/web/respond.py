"""The only place that writes a streamed body.

A body that ends cleanly is complete: whatever goes wrong after the first byte breaks the connection off (no final
chunk, or fewer bytes than announced), so that the client sees an error and not a short archive. The exporter's producer
is told by the closing pipe and releases what it holds on its own.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from types import TracebackType

from aiohttp import HttpVersion11, hdrs, web

from streamer.errors import SourceChanged, Stalled, StreamerError
from streamer.export.exporter import ExportStream
from streamer.export.plan import ExportPlan
from streamer.log import logger
from streamer.oci import digest as digests
from streamer.tar.compression import Compression
from streamer.web.problems import HttpVersion
from streamer.web.site import SITE, Site

log = logger("streamer.web")

_PIECE = 64 << 10
"""Bytes per write: aiohttp waits for the transport to drain after each of these."""


class BrokenBody(ConnectionError):
    """Raised to aiohttp after the connection was broken off on purpose; nothing more can be said to the client."""


def headers(plan: ExportPlan) -> dict[str, str]:
    """What is known of a body beforehand; the same for GET and HEAD. Digest and length are right or absent."""
    known = {
        hdrs.CONTENT_TYPE: plan.media_type,
        hdrs.CONTENT_DISPOSITION: f'attachment; filename="{plan.filename}"',
        hdrs.CACHE_CONTROL: "no-store",
        hdrs.ACCEPT_RANGES: "none",
        hdrs.VARY: hdrs.ACCEPT_ENCODING,
        "X-Content-Type-Options": "nosniff",
    }
    if plan.coding is not Compression.NONE:
        known[hdrs.CONTENT_ENCODING] = plan.coding.value
    if plan.length is not None:
        known[hdrs.CONTENT_LENGTH] = str(plan.length)
    if plan.body_digest is not None and digests.algorithm(plan.body_digest) == "sha256":
        value = base64.b64encode(bytes.fromhex(digests.encoded(plan.body_digest))).decode()
        known["Repr-Digest"] = f"sha-256=:{value}:"
    return known


def head(plan: ExportPlan) -> web.StreamResponse:
    """The answer to HEAD: nothing is mounted or read."""
    return web.Response(headers=headers(plan))


async def stream(request: web.Request, plan: ExportPlan) -> web.StreamResponse:
    """Send the body of a plan. Errors before the first byte raise as they are, later ones break the connection off."""
    if plan.length is None and request.version < HttpVersion11:
        raise HttpVersion(
            "an archive of unknown length needs HTTP/1.1: HTTP/1.0 cannot tell a whole body from a cut one"
        )
    site = request.app[SITE]
    async with _opened(site, plan) as source:
        answer = web.StreamResponse(headers=headers(plan))
        if plan.length is None:
            answer.enable_chunked_encoding()
        transport = request.transport
        if transport is None:
            raise BrokenBody("the client is gone")
        began = time.monotonic()
        outcome = "internal"
        sent = 0
        try:
            await answer.prepare(request)
            with StallWatch(transport, site.stall_timeout) as watch:
                async for chunk in source:
                    view = memoryview(chunk)
                    for start in range(0, len(view), _PIECE):
                        piece = view[start : start + _PIECE]
                        await watch.write(answer, piece)
                        sent += len(piece)
                if plan.length is not None and sent != plan.length:
                    raise SourceChanged(f"cannot export {plan.title}: {sent} bytes of the {plan.length} announced")
                await watch.finish(answer)
            outcome = "complete"
        except StreamerError as error:
            transport.abort()
            outcome = error.code
            log.warning("body broken off", title=plan.title, bytes=sent, code=error.code, error=str(error))
            raise BrokenBody(str(error)) from error
        except BaseException as error:
            transport.abort()
            gone = isinstance(error, (ConnectionError, asyncio.CancelledError))
            outcome = "client_gone" if gone else "internal"
            raise
        finally:
            site.metrics.exports.labels(plan.kind.value, outcome).inc()
            site.metrics.bytes.labels(plan.kind.value).inc(sent)
            site.metrics.seconds.labels(plan.kind.value).observe(time.monotonic() - began)
    return answer


@asynccontextmanager
async def _opened(site: Site, plan: ExportPlan) -> AsyncIterator[ExportStream]:
    """The stream; a failure before its first byte is counted here, later ones where the body is written."""
    async with AsyncExitStack() as stack:
        try:
            source = await stack.enter_async_context(site.exporter.open(plan))
        except StreamerError as error:
            site.metrics.exports.labels(plan.kind.value, error.code).inc()
            raise
        yield source


class StallWatch:
    """Breaks off a connection whose client takes less than 64 KiB in `limit` seconds while bytes wait for it.

    A timer and two counters instead of a deadline around each write: a client that takes one byte at a time lets
    writes through now and then, and a slow source is not the client's fault.
    """

    def __init__(self, transport: asyncio.Transport, limit: float) -> None:
        self._transport = transport
        self._limit = limit
        self._loop = asyncio.get_running_loop()
        self._sent = 0
        self._taken = 0
        self._blocked = 0.0
        self._since: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._stalled = False

    def __enter__(self) -> StallWatch:
        self._timer = self._loop.call_later(self._limit, self._look)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._stalled and isinstance(error, ConnectionError):
            raise Stalled(f"the client took less than {_PIECE} bytes in {self._limit:g} seconds") from error

    async def write(self, answer: web.StreamResponse, piece: memoryview) -> None:
        self._sent += len(piece)
        self._since = self._loop.time()
        try:
            await answer.write(piece)
        finally:
            self._blocked += self._loop.time() - self._since
            self._since = None

    async def finish(self, answer: web.StreamResponse) -> None:
        """The end of the body, and the client's taking of all that still waits for it: nobody would watch over the
        rest, and a client that never reads it would hold its connection for ever."""
        self._since = self._loop.time()
        self._transport.set_write_buffer_limits(high=0)
        try:
            await answer.write_eof()
        finally:
            self._transport.set_write_buffer_limits()

    def _look(self) -> None:
        now = self._loop.time()
        blocked = self._blocked + (now - self._since if self._since is not None else 0)
        taken = self._sent - self._transport.get_write_buffer_size()
        if self._since is not None and blocked > 0.9 * self._limit and taken - self._taken < _PIECE:
            self._stalled = True
            self._transport.abort()
            return
        self._taken, self._blocked = taken, 0.0
        if self._since is not None:
            self._since = now
        self._timer = self._loop.call_later(self._limit, self._look)
