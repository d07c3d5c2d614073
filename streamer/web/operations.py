"""For those who run the service: health, readiness, metrics, and the API's own description."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from streamer.errors import Draining, StreamerError
from streamer.web.site import SITE


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
    stores: dict[str, str] = {}
    failed: StreamerError | None = None
    for store in site.catalog.stores():
        try:
            await store.named("readiness")  # a look-up that finds nothing and costs next to nothing
            stores[store.name] = "ok"
        except StreamerError as error:
            if store is site.local:
                raise
            stores[store.name] = error.code
            failed = error
    if failed is not None and "ok" not in stores.values():
        raise failed
    return web.json_response({"status": "ok", "stores": stores})


async def metrics(request: web.Request, _values: dict[str, Any]) -> web.Response:
    site = request.app[SITE]
    site.metrics.open.set(site.exporter.statistics().open)
    site.metrics.leases.set(site.exporter.mounts.statistics().leases)
    return web.Response(body=site.metrics.text(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})
