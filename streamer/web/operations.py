"""For those who run the service: health, readiness, metrics, and the API's own description."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from streamer.access.scope import Kind
from streamer.errors import Draining, StreamerError
from streamer.jobs.job import State
from streamer.web.callers import CALLER
from streamer.web.problems import Unready
from streamer.web.site import SITE, Site

_PATIENCE = 0.5
"""Seconds that a store has to answer: who asks whether we are ready often waits no more than one."""


async def healthz(_request: web.Request, _values: dict[str, Any]) -> web.Response:
    """The process lives: its event loop answers."""
    return web.json_response({"status": "ok"})


async def readyz(request: web.Request, _values: dict[str, Any]) -> web.Response:
    """Requests may be sent here: not draining, the embedded store answers, and of the others one at least.

    An engine that is down for a moment takes nobody else's exports away; which it is, the answer says to those who may
    list it.
    """
    site = request.app[SITE]
    scope = request[CALLER].scope
    if site.health.draining:
        raise Draining("the service is shutting down")
    failed = await site.catalog.health(_PATIENCE)
    stores = {store.name: failed[store.name].code if store.name in failed else "ok" for store in site.catalog.stores()}
    listed = Kind.LIST in scope.kinds
    told = {name: code for name, code in stores.items() if listed and scope.store(name)}
    embedded = site.local is not None and site.local.name in failed
    if embedded or (failed and "ok" not in stores.values()):
        said = "; ".join(str(error) for name, error in failed.items() if name in told)
        raise Unready(f"not ready: {said or 'a store does not answer'}", stores=told)
    return web.json_response({"status": "ok", "stores": told})


async def metrics(request: web.Request, _values: dict[str, Any]) -> web.Response:
    site = request.app[SITE]
    site.metrics.open.set(site.exporter.statistics().open)
    site.metrics.abandoned.set(site.exporter.statistics().abandoned)
    site.metrics.connections.set(site.connections.open)
    site.metrics.leases.set(site.exporter.mounts.statistics().leases)
    if site.jobs is not None:
        site.metrics.jobs.labels(State.RUNNING.value).set(site.jobs.running)
        try:
            site.metrics.jobs.labels(State.QUEUED.value).set(await site.jobs.waiting())
        except StreamerError:
            pass  # what is known besides is wanted all the more when the database fails
    return web.Response(body=site.metrics.text(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})


def watched(site: Site) -> None:
    """Lets the metrics of a site hear of what others do and count."""
    metrics, mounts = site.metrics, site.exporter.mounts
    mounts.on_mounted = metrics.mounts.observe
    site.catalog.on_answer = lambda store, seconds: metrics.stores.labels(store.name).observe(seconds)
    metrics.count(
        "streamer_connections_refused", "Connections there was no room for.", lambda: site.connections.refused
    )
    metrics.count(
        "streamer_slow_headers", "Connections closed for headers that did not come.", lambda: site.connections.slow
    )
    metrics.count("streamer_mounts_failed", "Mounts that failed.", lambda: mounts.statistics().failed)
    if site.jobs is not None:

        def ended(state: State, size: int) -> None:
            metrics.jobs_ended.labels(state.value).inc()
            metrics.job_bytes.inc(size)

        site.jobs.on_ended = ended
