"""For those who run the service: health, readiness, metrics, and the API's own description."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from streamer.errors import Draining
from streamer.web.problems import Unready
from streamer.web.site import SITE

_PATIENCE = 0.5
"""Seconds that a store has to answer: who asks whether we are ready often waits no more than one."""


async def healthz(_request: web.Request, _values: dict[str, Any]) -> web.Response:
    """The process lives: its event loop answers."""
    return web.json_response({"status": "ok"})


async def readyz(request: web.Request, _values: dict[str, Any]) -> web.Response:
    """Requests may be sent here: not draining, the embedded store answers, and of the others one at least.

    An engine that is down for a moment takes nobody else's exports away; which it is, the answer says.
    """
    site = request.app[SITE]
    if site.health.draining:
        raise Draining("the service is shutting down")
    failed = await site.catalog.health(_PATIENCE)
    stores = {store.name: failed[store.name].code if store.name in failed else "ok" for store in site.catalog.stores()}
    embedded = site.local is not None and site.local.name in failed
    if embedded or (failed and "ok" not in stores.values()):
        raise Unready("not ready: " + "; ".join(map(str, failed.values())), stores=stores)
    return web.json_response({"status": "ok", "stores": stores})


async def metrics(request: web.Request, _values: dict[str, Any]) -> web.Response:
    site = request.app[SITE]
    site.metrics.open.set(site.exporter.statistics().open)
    site.metrics.leases.set(site.exporter.mounts.statistics().leases)
    return web.Response(body=site.metrics.text(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})
