"""Who asks: bearer tokens in `Authorization` (RFC 6750), and what each caller may do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass

from aiohttp import HttpVersion11, hdrs, web
from aiohttp.typedefs import Middleware

from streamer.access.scope import EVERYTHING, NOTHING, Kind, Scope
from streamer.access.token import recognised
from streamer.errors import Forbidden, StreamerError, Unauthenticated
from streamer.web.peers import origin
from streamer.web.problems import response
from streamer.web.site import SITE

_LONGEST = 512


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever sent a request. `client` names it for limits and logs: its token's name, or else where it is."""

    client: str
    token: str | None
    scope: Scope

    def require(self, kind: Kind) -> None:
        """Forbidden unless it may do this kind of thing."""
        if kind not in self.scope.kinds:
            raise self.lacks(f"kinds={kind.value}", f"do this: its kinds do not hold {kind.value!r}")

    def lacks(self, missing: str, what: str) -> Forbidden:
        """The refusal, with the scope that is missing."""
        return Forbidden(f"token {self.token!r} may not {what}", missing=missing)


CALLER = web.RequestKey("caller", Caller)


def authentication(unguarded: Collection[str]) -> Middleware:
    """The middleware that lets nobody in without a token, where there are tokens; `unguarded` are paths that anyone may
    ask for. What a path does not need, a handler that finds a caller may still look at."""

    @web.middleware
    async def authenticated(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        shares = request.app[SITE].shares
        try:
            request[CALLER] = caller = _caller(request)
        except Unauthenticated:
            stranger = Caller(peer(request), None, NOTHING)
            if request.path not in unguarded:
                shares.request(stranger.client)
                raise
            request[CALLER] = stranger
        else:
            if request.path not in unguarded:  # nobody should think a busy service dead
                shares.request(caller.client)
        return await handler(request)

    return authenticated


def expectation(unguarded: Collection[str]) -> Callable[[web.Request], Awaitable[web.StreamResponse | None]]:
    """What `Expect` is answered with, before any middleware: whoever may not come in is told so, and not asked for the
    body first (RFC 9110, 10.1.1)."""

    async def expected(request: web.Request) -> web.StreamResponse | None:
        if request.version < HttpVersion11:
            return None
        if request.headers.get(hdrs.EXPECT, "").lower() != "100-continue":
            raise web.HTTPExpectationFailed(text="this expectation cannot be met")
        if request.path not in unguarded:
            try:
                _admit(request)
            except StreamerError as error:
                answer = response(error)
                answer.force_close()
                return answer
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # what follows counts as the answer
        return None

    return expected


def _admit(request: web.Request) -> None:
    """Unauthenticated for a stranger, which counts as a request of its: as many guesses as others may ask."""
    try:
        _caller(request)
    except Unauthenticated:
        request.app[SITE].shares.request(peer(request))
        raise


def _caller(request: web.Request) -> Caller:
    keys = request.app[SITE].keys
    if keys is None:
        return Caller(peer(request), None, EVERYTHING)
    lines = request.headers.getall(hdrs.AUTHORIZATION, ())
    if not lines:
        raise Unauthenticated("this service answers only to requests with a token: Authorization: Bearer TOKEN")
    scheme, _, given = lines[0].partition(" ")
    given = given.strip(" ")
    if len(lines) > 1 or scheme.lower() != "bearer" or not given or len(given) > _LONGEST:
        raise Unauthenticated("the Authorization of this request is not one Bearer token", given=True)
    token = recognised(keys.value, given)
    if token is None:
        raise Unauthenticated("the token of this request is not known here", given=True)
    if token.expired():
        raise Unauthenticated(f"token {token.name!r} has expired", given=True)
    return Caller(f"token {token.name}", token.name, token.scope)


def peer(request: web.Request) -> str:
    """Where a request comes from."""
    return origin(None if request.transport is None else request.transport.get_extra_info("socket"))
