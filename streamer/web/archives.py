"""The exports over HTTP: each handler decides a plan; `respond` sends it, or only its headers for HEAD."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from aiohttp import web

from streamer.export.container import plan_container, plan_rootfs
from streamer.export.diff import plan_changes, plan_diff
from streamer.export.image import Format, plan_images
from streamer.export.layer import plan_layer
from streamer.export.plan import ExportPlan
from streamer.tracing import span
from streamer.web import lengths, permitted, respond
from streamer.web.conditional import Asked
from streamer.web.lengths import Length
from streamer.web.parameters import options

Decision: TypeAlias = Callable[[web.Request, dict[str, Any]], Awaitable[ExportPlan]]
Handler: TypeAlias = Callable[[web.Request, dict[str, Any]], Awaitable[web.StreamResponse]]


def answered(decide: Decision) -> Handler:
    """The handler that answers with the export which `decide` plans."""

    @functools.wraps(decide)
    async def handler(request: web.Request, values: dict[str, Any]) -> web.StreamResponse:
        with span("plan"):
            plan = await decide(request, values)
        asked = Asked.of(request)
        plan, outlined = lengths.decided(request, plan, asked, values)
        if outlined:
            return await respond.outlined(request, plan, asked)
        return await respond.whole(request, plan, asked, length=values.get("length") is not Length.UNKNOWN)

    return handler


@answered
async def layer(request: web.Request, values: dict[str, Any]) -> ExportPlan:
    found = await permitted.catalog(request).layer(request.match_info["digest"], values.get("store"))
    return plan_layer(found, options(values))


@answered
async def container(request: web.Request, values: dict[str, Any]) -> ExportPlan:
    found = await permitted.catalog(request).container(request.match_info["container"], values.get("store"))
    return plan_container(found, options(values))


@answered
async def diff(request: web.Request, values: dict[str, Any]) -> ExportPlan:
    found = await permitted.catalog(request).container(request.match_info["container"], values.get("store"))
    return plan_diff(found, options(values))


@answered
async def changes(request: web.Request, values: dict[str, Any]) -> ExportPlan:
    found = await permitted.catalog(request).container(request.match_info["container"], values.get("store"))
    return plan_changes(found)


@answered
async def rootfs(request: web.Request, values: dict[str, Any]) -> ExportPlan:
    name = request.match_info["image"]
    found = await permitted.catalog(request).image(name, values.get("store"))
    return plan_rootfs(found, name, options(values))


@answered
async def image(request: web.Request, values: dict[str, Any]) -> ExportPlan:
    return await _images(request, [request.match_info["image"]], values)


@answered
async def images(request: web.Request, values: dict[str, Any]) -> ExportPlan:
    return await _images(request, values["name"], values)


async def _images(request: web.Request, names: list[str], values: dict[str, Any]) -> ExportPlan:
    format = values.get("format", Format.OCI)
    return await plan_images(permitted.catalog(request), names, options(values), format, values.get("store"))
