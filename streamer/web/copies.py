"""`POST /v1/copies`: a context comes in, and what is picked of it becomes a new image on top of another one."""

from __future__ import annotations

from functools import partial
from typing import Any

from aiohttp import web

from streamer.build import contexts, copying
from streamer.build.copying import Copied, Order
from streamer.build.order import names
from streamer.build.remote import Fetching
from streamer.build.workshop import LocalWorkshop
from streamer.context.fetch import Limits as FetchLimits
from streamer.context.incoming import taken_in
from streamer.context.tree import Hashing
from streamer.errors import Unsupported
from streamer.stores.local.store import LocalStore
from streamer.tar.source import Limits
from streamer.web import permitted
from streamer.web.builds import Slot
from streamer.web.callers import CALLER
from streamer.web.site import SITE
from streamer.web.uploads import Body


async def post(request: web.Request, values: dict[str, Any]) -> web.Response:
    site = request.app[SITE]
    local = site.local
    if not isinstance(local, LocalStore):
        raise Unsupported("no embedded store is served here, so there is nowhere to copy to")
    order = _order(values)
    permitted.require_build(request[CALLER], local.name, order.names)
    look_up = partial(permitted.catalog(request).image, store=local.name)
    hashing = values.get("hashing", Hashing.DOCKER_24)
    limits = Limits(total=site.max_import_bytes)
    source = Body(request, site.upload_timeout, "copy")
    fetching = None if site.fetch is None else Fetching(site.fetch, FetchLimits(size=site.max_import_bytes))

    async def work() -> Copied:
        async with (
            local.scratch() as place,
            contexts.entered(lambda: taken_in(source, place, limits=limits)) as tree,
        ):
            workshop = LocalWorkshop(local, site.exporter.mounts, tree, hashing, limits, fetching)
            return await copying.copied(order, workshop=workshop, look_up=look_up, naming=local)

    # In the service's own task group: a client that leaves cannot tear it, it can only make it fail.
    with Slot(site.builds) as slot:
        made = await site.background.run(lambda: slot.held(work()))
    return web.json_response(
        copying.value(made),
        status=200 if made.cached else 201,
        headers={"Location": f"/v1/images/{made.image.id}/archive"},
    )


def _order(values: dict[str, Any]) -> Order:
    given = copying.instruction(
        values.get("add", False),
        values["source"],
        values["destination"],
        chown=values.get("chown", ""),
        chmod=values.get("chmod", ""),
    )
    return Order(values["image"], given, names(values.get("t", ())), cache=not values.get("nocache", False))
