"""The application: routes from the table, problems around them."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable

from aiohttp import hdrs, web

from streamer.web import parameters
from streamer.web.callers import CALLER, authentication, expectation
from streamer.web.observed import observed, signed
from streamer.web.openapi import document
from streamer.web.origin import same_machine
from streamer.web.problems import SERVER, problems
from streamer.web.routes import ROUTES, Route
from streamer.web.site import SITE, Site


def application(site: Site) -> web.Application:
    """The aiohttp application. It owns nothing: whoever made the site closes what is in it."""
    unguarded = {route.path for route in ROUTES if route.scope is None}
    app = web.Application(middlewares=[observed, problems, same_machine, authentication(unguarded)], client_max_size=0)
    app[SITE] = site
    expected = expectation(unguarded)
    app.on_response_prepare.append(_named)
    app.on_response_prepare.append(signed)
    for route in ROUTES:
        app.router.add_route(route.method, route.resource, _checked(route), expect_handler=expected)
        if route.method == hdrs.METH_GET:
            app.router.add_route("HEAD", route.resource, _checked(route), expect_handler=expected)
    description = json.dumps(document(), indent=1).encode() + b"\n"

    async def openapi(request: web.Request) -> web.Response:
        parameters.read(request, ())
        return web.Response(body=description, content_type="application/json")

    app.router.add_get("/openapi.json", openapi)
    return app


async def _named(_request: web.Request, answer: web.StreamResponse) -> None:
    answer.headers[hdrs.SERVER] = SERVER  # not aiohttp's, which tells its version and Python's


def _checked(route: Route) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handler(request: web.Request) -> web.StreamResponse:
        if route.scope is not None:
            request[CALLER].require(route.scope)
        return await route.handler(request, parameters.read(request, route.parameters))

    return handler
