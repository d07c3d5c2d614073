"""A way to an S3 server on which one call goes wrong: the server's own answers otherwise."""

from __future__ import annotations

import asyncio
import enum
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web
from anyio.from_thread import BlockingPortal, start_blocking_portal


class Fault(enum.StrEnum):
    SERVER_ERROR = "500"
    SLOW_DOWN = "503"
    RESET = "reset"
    TIMEOUT = "time-out"
    ERROR_IN_200 = "200 with an error body"
    LOST_ANSWER = "lost answer"
    ERROR_AFTERWARDS = "500 after what it did"
    WRONG_ETAG = "wrong ETag"
    WRONG_CHECKSUM = "wrong checksum"
    FORBIDDEN = "403"
    EXPIRED = "403 expired token"


_CODES = {
    Fault.SERVER_ERROR: (500, "InternalError"),
    Fault.SLOW_DOWN: (503, "SlowDown"),
    Fault.ERROR_IN_200: (200, "InternalError"),
    Fault.FORBIDDEN: (403, "AccessDenied"),
    Fault.EXPIRED: (403, "ExpiredToken"),
}
_HOPS = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length", "expect"})


@dataclass
class Faulty:
    """Forwards to `target`; the call of the number `at` (from 0, and `times` in a row) gets the fault."""

    target: str
    fault: Fault | None = None
    at: int = 0
    times: int = 1
    silence: float = 5
    """Seconds for which a call that times out stays without an answer."""
    calls: list[str] = field(default_factory=list)
    """What was asked, in order: method and what the query says."""
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    """Parts from the number `closed_from` on wait for it before they are forwarded."""
    closed_from: int | None = None
    blind: bool = False
    """Whether no object may be looked at, as for who may only write: 403, also for what is not there."""
    kept: bool = False
    """Whether nothing can be deleted at the moment: 503."""
    waiting: int = 0
    """How many parts came to the closed gate."""
    url: str = ""

    def plan(self, fault: Fault | None, at: int, times: int = 1) -> None:
        self.fault, self.at, self.times = fault, at, times
        self.calls.clear()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        number = len(self.calls)
        self.calls.append(f"{request.method} {request.rel_url.raw_query_string}")
        fault = self.fault if self.at <= number < self.at + self.times else None
        try:
            body = await request.read()
        except ConnectionError:
            return self._cut(request)
        if self.closed_from is not None and int(request.query.get("partNumber", "0")) >= self.closed_from:
            self.waiting += 1
            await self.gate.wait()
        if self.blind and request.method == "HEAD":
            return web.Response(status=403)
        if self.kept and (request.method == "DELETE" or request.query.get("comp") == "batch"):
            return web.Response(status=503)
        if fault in _CODES:
            status, code = _CODES[fault]
            text = (
                f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>made up</Message></Error>'
            )
            return web.Response(status=status, text=text, content_type="application/xml")
        if fault is Fault.RESET:
            return self._cut(request)
        if fault is Fault.TIMEOUT:
            await asyncio.sleep(self.silence)
            return self._cut(request)
        answer = await self._forwarded(request, body)
        if fault is Fault.LOST_ANSWER:
            return self._cut(request)
        if fault is Fault.ERROR_AFTERWARDS:
            return web.Response(status=500)
        if fault is Fault.WRONG_CHECKSUM and "x-amz-checksum-crc32c" in answer.headers:
            answer.headers["x-amz-checksum-crc32c"] = "AAAAAA=="
        if fault is Fault.WRONG_ETAG:
            etag = answer.headers.get("ETag", "")
            if etag:
                answer.headers["ETag"] = _flipped(etag)
            if isinstance(answer.body, bytes) and b"<ETag>" in answer.body:
                begin = answer.body.index(b"<ETag>") + 6
                end = answer.body.index(b"</ETag>")
                wrong = _flipped(answer.body[begin:end].decode()).encode()
                answer.body = answer.body[:begin] + wrong + answer.body[end:]
        return answer

    async def _forwarded(self, request: web.Request, body: bytes) -> web.Response:
        headers = [(name, value) for name, value in request.headers.items() if name.lower() not in _HOPS]
        async with (
            aiohttp.ClientSession(auto_decompress=False) as session,
            session.request(
                request.method,
                self.target + request.raw_path,
                headers=headers,
                data=aiohttp.payload.BytesIOPayload(_file(body)) if body else None,
                skip_auto_headers=("Content-Type", "User-Agent", "Accept", "Accept-Encoding"),
            ) as answer,
        ):
            kept = [(name, value) for name, value in answer.headers.items() if name.lower() not in _HOPS]
            made = web.Response(status=answer.status, body=await answer.read(), headers=dict(kept))
            if request.method == "HEAD":
                made.headers["Content-Length"] = answer.headers.get("Content-Length", "0")
            return made

    def _cut(self, request: web.Request) -> web.Response:
        if request.transport is not None:
            request.transport.abort()
        return web.Response()


def _file(body: bytes):  # type: ignore[no-untyped-def]
    import io

    return io.BytesIO(body)


def _flipped(etag: str) -> str:
    """Another ETag of the same form."""
    place = next(n for n, letter in enumerate(etag) if letter in "0123456789abcdef" and etag[n - 1] != "&")
    return etag[:place] + ("0" if etag[place] != "0" else "1") + etag[place + 1 :]


@asynccontextmanager
async def faulty(target: str) -> AsyncIterator[Faulty]:
    """A faulty way to the server at `target`, on a free port of loopback."""
    made = Faulty(target)
    app = web.Application(client_max_size=1 << 30)
    app.router.add_route("*", "/{rest:.*}", made.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield made
    finally:
        await runner.cleanup()


@dataclass
class Gate:
    """A way, run in a thread of its own, on which an upload comes as far as it may and no further."""

    way: Faulty
    portal: BlockingPortal

    def reached(self) -> None:
        """Back once a part waits."""
        end = time.monotonic() + 60
        while not self.way.waiting:
            assert time.monotonic() < end, "no part came"
            time.sleep(0.01)

    def open(self) -> None:
        self.portal.call(self.way.gate.set)


@contextmanager
def gated(target: str, closed_from: int) -> Iterator[Gate]:
    """To the server at `target`; parts from the number `closed_from` on wait until it is opened."""
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(faulty(target)) as way:
        way.closed_from = closed_from
        yield Gate(way, portal)
