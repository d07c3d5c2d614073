"""The only place that answers with an archive, or with what is known of one.

A body that ends cleanly is complete: whatever goes wrong after the first byte breaks the connection off (no final
chunk, or fewer bytes than announced), so that the client sees an error and not a short archive. The exporter's producer
is told by the closing pipe and releases what it holds on its own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from aiohttp import HttpVersion11, hdrs, web

from streamer.errors import SourceChanged, Stalled, StreamerError
from streamer.export.exporter import ExportStream
from streamer.export.plan import Choice, ExportPlan, Outline, Span
from streamer.log import logger
from streamer.oci import digest as digests
from streamer.tar.compression import Compression
from streamer.tracing import span
from streamer.web import digesting
from streamer.web.callers import CALLER
from streamer.web.conditional import Asked, Verdict
from streamer.web.digesting import Digesting
from streamer.web.direct import DirectOutlet
from streamer.web.observed import RECORD
from streamer.web.outlet import Outlet, SecuredOutlet
from streamer.web.problems import HttpVersion, PreconditionFailed, RangeNotSatisfiable
from streamer.web.site import SITE

log = logger("streamer.web")

_NOT_MODIFIED = (hdrs.CACHE_CONTROL, hdrs.ETAG, hdrs.VARY, "X-Content-Type-Options")
"""What a 304 says again of what a 200 would (RFC 9110, 15.4.5)."""


class BrokenBody(ConnectionError):
    """Raised to aiohttp after the connection was broken off on purpose; nothing more can be said to the client."""


def headers(plan: ExportPlan, outline: Outline | None = None, *, length: bool = True) -> dict[str, str]:
    """What is known of a body beforehand; the same for GET and HEAD. What is in here is right, or else absent.

    Only an outlined archive of what stands still has a version: a running container may be written without any sign of
    it (to pages of a file that are mapped and dirty already). And only what has one may be kept: by the client alone,
    and asked about again before each use.
    """
    etag = _etag(plan, outline)
    known = {
        hdrs.CONTENT_TYPE: plan.media_type,
        hdrs.CONTENT_DISPOSITION: f'attachment; filename="{plan.filename}"',
        hdrs.CACHE_CONTROL: "no-store" if etag is None else "private, no-cache",
        hdrs.ACCEPT_RANGES: "none" if etag is None else "bytes",
        hdrs.VARY: f"{hdrs.ACCEPT_ENCODING}, {hdrs.ACCEPT}",  # browsers get what can be resumed (`lengths`)
        "X-Content-Type-Options": "nosniff",
    }
    if plan.coding is not Compression.NONE:
        known[hdrs.CONTENT_ENCODING] = plan.coding.value
    if etag is not None:
        known[hdrs.ETAG] = f'"{etag}"'
    if outline is not None:
        known[hdrs.CONTENT_LENGTH] = str(outline.size)
    elif length and plan.length is not None:
        known[hdrs.CONTENT_LENGTH] = str(plan.length)
    if plan.body_digest is not None and digests.algorithm(plan.body_digest) == "sha256":
        known[digesting.REPR_DIGEST] = digesting.field(digests.encoded(plan.body_digest))
    return known


def _etag(plan: ExportPlan, outline: Outline | None) -> str | None:
    return outline.etag if outline is not None and plan.steady else None


async def whole(request: web.Request, plan: ExportPlan, asked: Asked, *, length: bool = True) -> web.StreamResponse:
    """The answer with an archive that has no version; `length`: whether to say how long it is, if that is known.

    HEAD mounts and reads nothing. Errors before the first byte raise as they are, later ones break the connection off.
    """
    known = headers(plan, length=length)
    status = asked.unmet(None)
    if status is not None:
        return _unsent(plan, Verdict(status), known)
    announced = plan.length if length else None
    if announced is None and request.version < HttpVersion11:
        raise HttpVersion(
            "an archive of unknown length needs HTTP/1.1: HTTP/1.0 cannot tell a whole body from a cut one"
        )
    if asked.head:
        return web.Response(headers=known)
    async with _opened(request, plan) as source:
        with span("stream"):
            return await _sent(request, source, web.StreamResponse(headers=known), announced)


async def outlined(request: web.Request, plan: ExportPlan, asked: Asked) -> web.StreamResponse:
    """The answer with an archive that is outlined first, or with a part of it, or with what is known of it."""
    digest = Digesting(plan) if _digest_wanted(request, plan, asked) else None

    def wanted(outline: Outline) -> Span | None:
        verdict = asked.verdict(outline.size, _etag(plan, outline))
        if digest is not None and verdict.status == 200:
            digest.make(outline)
        return verdict.span

    first = 0 if asked.range is None else asked.range.begins(plan.size)
    try:
        async with _opened(request, plan, Choice(wanted, first)) as source:
            outline = source.outline
            assert outline is not None
            known = headers(plan, outline)
            if digest is not None and digest.sha256:
                known[digesting.REPR_DIGEST] = digesting.field(digest.sha256)
            verdict = asked.verdict(outline.size, _etag(plan, outline))
            if verdict.span is None:
                return _unsent(plan, verdict, known, outline.size)
            start, stop = verdict.span
            if verdict.status == 206:
                known[hdrs.CONTENT_RANGE] = f"bytes {start}-{stop - 1}/{outline.size}"
                known[hdrs.CONTENT_LENGTH] = str(stop - start)
            answer = web.StreamResponse(status=verdict.status, headers=known)
            with span("stream"):
                return await _sent(request, source, answer, stop - start)
    finally:
        if digest is not None:
            digest.leave()


def _digest_wanted(request: web.Request, plan: ExportPlan, asked: Asked) -> bool:
    """Whether the whole is to be read for its digest: for HEAD only, whose answer can wait for it."""
    if not (asked.head and plan.steady) or digesting.REPR_DIGEST in headers(plan):
        return False
    return digesting.wanted(request.headers.getall(digesting.WANT_REPR_DIGEST, ()))


def _unsent(plan: ExportPlan, verdict: Verdict, known: dict[str, str], size: int = 0) -> web.Response:
    """An answer without a body, or a problem."""
    if verdict.status == 412:
        raise PreconditionFailed(f"{plan.title} is not the version that If-Match asks for")
    if verdict.status == 416:
        raise RangeNotSatisfiable(f"the range asked for has none of the {size} bytes of {plan.title}", size=size)
    if verdict.status == 304:
        return web.Response(status=304, headers={name: known[name] for name in _NOT_MODIFIED if name in known})
    return web.Response(headers=known)


async def _sent(
    request: web.Request, source: ExportStream, answer: web.StreamResponse, announced: int | None
) -> web.StreamResponse:
    """The answer, sent with all that the source gives: `announced` bytes, or else the connection is broken off."""
    site, plan = request.app[SITE], source.plan
    if announced is None:
        answer.enable_chunked_encoding()
    began = time.monotonic()
    outcome = "internal"
    opened = _outlet(request, answer, site.stall_timeout)
    try:
        async with opened as outlet:
            await outlet.send(source)
            if announced is not None and outlet.sent != announced:
                raise SourceChanged(f"cannot export {plan.title}: {outlet.sent} bytes of the {announced} announced")
            await outlet.finish()
        outcome = "complete"
    except StreamerError as error:
        outcome = error.code
        log.warning("body broken off", title=plan.title, bytes=opened.sent, code=error.code, error=str(error))
        raise BrokenBody(str(error)) from error
    except BaseException as error:
        gone = isinstance(error, (ConnectionError, asyncio.CancelledError))
        outcome = Stalled.code if opened.stalled else "client_gone" if gone else "internal"
        if opened.stalled:
            log.warning(
                "body broken off", title=plan.title, bytes=opened.sent, code=outcome, error="the client took too little"
            )
        raise
    finally:
        site.metrics.exports.labels(plan.kind.value, outcome).inc()
        site.metrics.bytes.labels(plan.kind.value).inc(opened.sent)
        site.metrics.seconds.labels(plan.kind.value).observe(time.monotonic() - began)
        request[RECORD].bytes, request[RECORD].outcome = opened.sent, outcome
    return answer


def _outlet(request: web.Request, answer: web.StreamResponse, limit: float) -> Outlet:
    secured = request.transport is not None and request.transport.get_extra_info("sslcontext") is not None
    return SecuredOutlet(request, answer, limit) if secured else DirectOutlet(request, answer, limit)


@asynccontextmanager
async def _opened(request: web.Request, plan: ExportPlan, choice: Choice | None = None) -> AsyncIterator[ExportStream]:
    """The stream; a failure before its first byte is counted here, later ones where the body is written."""
    site = request.app[SITE]
    async with AsyncExitStack() as stack:
        try:
            stack.enter_context(site.shares.export(request[CALLER].client))
            began = time.monotonic()
            with span("first byte", kind=plan.kind.value, title=plan.title):
                source = await stack.enter_async_context(site.exporter.open(plan, choice))
            site.metrics.first_byte.labels(plan.kind.value).observe(time.monotonic() - began)
        except StreamerError as error:
            site.metrics.exports.labels(plan.kind.value, error.code).inc()
            raise
        yield source
