"""The exports over HTTP: each handler decides a plan; `respond` sends it, or only its headers for HEAD."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from streamer.export.container import plan_container, plan_rootfs
from streamer.export.diff import plan_changes, plan_diff
from streamer.export.image import Format, plan_images
from streamer.export.layer import plan_layer
from streamer.export.plan import ExportPlan
from streamer.web import lengths, permitted, respond
from streamer.web.conditional import Asked
from streamer.web.lengths import Length
from streamer.web.parameters import options


async def layer(request: web.Request, values: dict[str, Any]) -> web.StreamResponse:
    found = await permitted.catalog(request).layer(request.match_info["digest"], values.get("store"))
    return await _answer(request, plan_layer(found, options(values)), values)


async def container(request: web.Request, values: dict[str, Any]) -> web.StreamResponse:
    found = await permitted.catalog(request).container(request.match_info["container"], values.get("store"))
    return await _answer(request, plan_container(found, options(values)), values)


async def diff(request: web.Request, values: dict[str, Any]) -> web.StreamResponse:
    found = await permitted.catalog(request).container(request.match_info["container"], values.get("store"))
    return await _answer(request, plan_diff(found, options(values)), values)


async def changes(request: web.Request, values: dict[str, Any]) -> web.StreamResponse:
    found = await permitted.catalog(request).container(request.match_info["container"], values.get("store"))
    return await _answer(request, plan_changes(found), {})


async def rootfs(request: web.Request, values: dict[str, Any]) -> web.StreamResponse:
    name = request.match_info["image"]
    found = await permitted.catalog(request).image(name, values.get("store"))
    return await _answer(request, plan_rootfs(found, name, options(values)), values)


async def image(request: web.Request, values: dict[str, Any]) -> web.StreamResponse:
    return await _images(request, [request.match_info["image"]], values)


async def images(request: web.Request, values: dict[str, Any]) -> web.StreamResponse:
    return await _images(request, values["name"], values)


async def _images(request: web.Request, names: list[str], values: dict[str, Any]) -> web.StreamResponse:
    catalog = permitted.catalog(request)
    format = values.get("format", Format.OCI)
    return await _answer(
        request, await plan_images(catalog, names, options(values), format, values.get("store")), values
    )


async def _answer(request: web.Request, plan: ExportPlan, values: Mapping[str, Any]) -> web.StreamResponse:
    asked = Asked.of(request)
    plan, outlined = lengths.decided(request, plan, asked, values)
    if outlined:
        return await respond.outlined(request, plan, asked)
    return await respond.whole(request, plan, asked, length=values.get("length") is not Length.UNKNOWN)
