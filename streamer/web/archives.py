"""The exports over HTTP: each handler decides a plan; `respond` sends it, or only its headers for HEAD."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from aiohttp import hdrs, web

from streamer.export.container import plan_container, plan_rootfs
from streamer.export.diff import plan_changes, plan_diff
from streamer.export.image import Format, plan_images
from streamer.export.layer import plan_layer
from streamer.export.plan import ExportPlan
from streamer.tar.compression import Compression
from streamer.web import negotiate, respond
from streamer.web.parameters import options
from streamer.web.site import SITE


async def layer(request: web.Request, values: dict[str, Any]) -> web.StreamResponse:
    found = await request.app[SITE].catalog.layer(request.match_info["digest"], values.get("store"))
    return await _answer(request, plan_layer(found, options(values)))


async def container(request: web.Request, values: dict[str, Any]) -> web.StreamResponse:
    found = await request.app[SITE].catalog.container(request.match_info["container"], values.get("store"))
    return await _answer(request, plan_container(found, options(values)))


async def diff(request: web.Request, values: dict[str, Any]) -> web.StreamResponse:
    found = await request.app[SITE].catalog.container(request.match_info["container"], values.get("store"))
    return await _answer(request, plan_diff(found, options(values)))


async def changes(request: web.Request, values: dict[str, Any]) -> web.StreamResponse:
    found = await request.app[SITE].catalog.container(request.match_info["container"], values.get("store"))
    return await _answer(request, plan_changes(found))


async def rootfs(request: web.Request, values: dict[str, Any]) -> web.StreamResponse:
    name = request.match_info["image"]
    found = await request.app[SITE].catalog.image(name, values.get("store"))
    return await _answer(request, plan_rootfs(found, name, options(values)))


async def image(request: web.Request, values: dict[str, Any]) -> web.StreamResponse:
    return await _images(request, [request.match_info["image"]], values)


async def images(request: web.Request, values: dict[str, Any]) -> web.StreamResponse:
    return await _images(request, values["name"], values)


async def _images(request: web.Request, names: list[str], values: dict[str, Any]) -> web.StreamResponse:
    catalog = request.app[SITE].catalog
    format = values.get("format", Format.OCI)
    return await _answer(request, await plan_images(catalog, names, options(values), format, values.get("store")))


async def _answer(request: web.Request, plan: ExportPlan) -> web.StreamResponse:
    coding = negotiate.coding(request.headers.getall(hdrs.ACCEPT_ENCODING, ()))
    if plan.compression is Compression.NONE:
        plan = replace(plan, coding=coding)
    if request.method == hdrs.METH_HEAD:
        return respond.head(plan)
    return await respond.stream(request, plan)
