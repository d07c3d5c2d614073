"""Whom a service on loopback answers: programs of this machine, not web pages that a browser on it happens to show.

A page can make a name of its own resolve to 127.0.0.1 (DNS rebinding) and then read answers as its own, or send a form
here from anywhere. So over TCP the Host must be this machine's or one that was allowed, and a request that changes
something must not come from a foreign page. The very address that a connection reached is this machine's as well: what
no name stands for, none can be rebound to. A unix socket no browser reaches.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from aiohttp import hdrs, web

from streamer.errors import NotPermitted
from streamer.web.site import SITE

_READING = frozenset({hdrs.METH_GET, hdrs.METH_HEAD})


@web.middleware
async def same_machine(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """NotPermitted for a Host, or for a changing request an Origin, that is neither loopback nor allowed."""
    transport = request.transport
    if transport is not None and isinstance(transport.get_extra_info("sockname"), tuple):
        allowed = (*request.app[SITE].hosts, str(transport.get_extra_info("sockname")[0]))
        # A target in absolute form stands above the Host beside it (RFC 9112, 3.2.2).
        host, target = request.headers.get(hdrs.HOST), request.raw_path
        named = [f"//{host}"] if host else []
        if not target.startswith("/") and request.method != hdrs.METH_CONNECT:
            named.append(target)
        for each in named:
            if not _ours(each, allowed):
                said = each.removeprefix("//")[:200]
                raise NotPermitted(f"this service does not answer to {said!r}; allow that name with STREAMER_HOSTS")
        # An image or a link of a page asks without an Origin; a container that is paused is a change as well.
        changes = request.method not in _READING or "pause" in request.query
        origin = request.headers.get(hdrs.ORIGIN)
        if changes and origin and not _ours(origin, allowed):
            raise NotPermitted(f"a page of {origin[:200]!r} may not change anything here")
        if changes and not origin and request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
            raise NotPermitted("a page of another site may not change anything here")
    return await handler(request)


def _ours(url: str, allowed: tuple[str, ...]) -> bool:
    try:
        name = urlsplit(url).hostname or ""
    except ValueError:
        return False
    if name == "localhost" or name in allowed:
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
