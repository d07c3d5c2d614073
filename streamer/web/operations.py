"""For those who run the service: health, readiness, metrics, and the API's own description."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from streamer.errors import Draining
from streamer.web.site import SITE


async def healthz(_request: web.Request, _values: dict[str, Any]) -> web.Response:
    """The process lives: its event loop answers."""
    return web.json_response({"status": "ok"})


async def readyz(request: web.Request, _values: dict[str, Any]) -> web.Response:
    """Requests may be sent here: not draining, and every store answers."""
    site = request.app[SITE]
    if site.health.draining:
        raise Draining("the service is shutting down")
    for store in site.catalog.stores():
        await store.named("readiness")  # a look-up that finds nothing and costs next to nothing
    return web.json_response({"status": "ok"})


async def metrics(request: web.Request, _values: dict[str, Any]) -> web.Response:
    site = request.app[SITE]
    site.metrics.open.set(site.exporter.statistics().open)
    site.metrics.leases.set(site.exporter.mounts.statistics().leases)
    return web.Response(body=site.metrics.text(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})
