"""`POST /v1/copies`: a context comes in, and what is picked of it becomes a new image on top of another one."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from streamer.build import contexts, copying
from streamer.build.copying import Copied, Order
from streamer.build.order import names
from streamer.context.incoming import taken_in
from streamer.web.site import SITE
from streamer.web.slots import Slot
from streamer.web.uploads import Body
from streamer.web.workplace import workplace


async def post(request: web.Request, values: dict[str, Any]) -> web.Response:
    site, order = request.app[SITE], _order(values)
    place = workplace(request, values, order.names, "copy")
    source = Body(request, site.upload_timeout, "copy")

    async def work() -> Copied:
        async with (
            place.local.scratch() as scratch,
            contexts.entered(lambda: taken_in(source, scratch, limits=place.limits)) as tree,
        ):
            workshop = place.workshop(tree)
            return await copying.copied(order, workshop=workshop, look_up=place.look_up, naming=place.local)

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
