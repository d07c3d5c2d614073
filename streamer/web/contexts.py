"""`POST /v1/contexts`: a build context from what the body is or names, streamed back as one archive."""

from __future__ import annotations

import os
from typing import Any

from aiohttp import web

from streamer.context.feed import fed
from streamer.context.generate import plan_files
from streamer.context.incoming import plan_incoming
from streamer.context.opening import WEB, Network, opened
from streamer.context.plan import DOCKERFILE, Choices, Context, Owner
from streamer.errors import InvalidRequest, NotPermitted, Unsupported
from streamer.export.plan import ExportPlan
from streamer.export.tasks import threaded
from streamer.stores.local.store import LocalStore
from streamer.tar.compression import Compression
from streamer.tar.source import Limits
from streamer.web import respond
from streamer.web.bodies import ContextSource
from streamer.web.conditional import Asked
from streamer.web.documents import document
from streamer.web.site import SITE, Site
from streamer.web.slots import Slot
from streamer.web.uploads import Body

_LONGEST = 8 << 20
"""Bytes of a body that has files in it."""


async def post(request: web.Request, values: dict[str, Any]) -> web.StreamResponse:
    """An archive passes through while it comes: whoever sends one must read the answer meanwhile."""
    site = request.app[SITE]
    dockerfile = values.get("dockerfile")
    choices = Choices(
        values.get("owner", Owner.ROOT),
        values.get("compression", Compression.NONE),
        None if dockerfile is None else os.fsencode(dockerfile),
    )
    if request.content_type == "application/json":
        wanted = await document(request, ContextSource, site.upload_timeout, _LONGEST)
        if wanted.source is None:
            return await _answered(request, _generated(wanted, choices).plan)
        return await _fetched(request, site, wanted.source, choices)
    body = Body(request, site.upload_timeout, "make a context")
    async with fed(body.receive) as feed:
        limits = Limits(total=site.max_import_bytes)
        context = await threaded(lambda: plan_incoming(feed, choices, name="the body", limits=limits))
        return await _answered(request, feed.export(context.plan))


async def _fetched(request: web.Request, site: Site, source: str, choices: Choices) -> web.StreamResponse:
    if site.fetch is None:
        raise NotPermitted("this service fetches nothing for its clients: the setting fetch allows it")
    local = site.local
    if not isinstance(local, LocalStore):
        raise Unsupported("no embedded store is served here, so there is nowhere to clone to")
    network = Network(site.fetch, WEB, site.max_import_bytes)
    # As costly as a build, and so among those that may be under way.
    with Slot(site.builds):
        async with local.scratch() as above, opened(source, choices, network, above) as context:
            return await _answered(request, context.plan)


def _generated(wanted: ContextSource, choices: Choices) -> Context:
    files = {name.encode(): text.encode() for name, text in wanted.files.items()}
    if wanted.dockerfile is not None:
        files = {choices.dockerfile or DOCKERFILE: wanted.dockerfile.encode()} | files
    if not files:
        raise InvalidRequest("give a source, or a dockerfile and files")
    return plan_files(files, choices)


async def _answered(request: web.Request, plan: ExportPlan) -> web.StreamResponse:
    return await respond.whole(request, plan, Asked.of(request), length=False)
