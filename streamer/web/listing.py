"""What is there: stores, images, containers and layers as JSON."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from streamer.stores.values import container_value, damaged_value, image_value, layer_value, store_value
from streamer.web import permitted


async def stores(request: web.Request, _values: dict[str, Any]) -> web.Response:
    return web.json_response([store_value(store) for store in permitted.catalog(request).stores()])


async def images(request: web.Request, values: dict[str, Any]) -> web.Response:
    found = await permitted.catalog(request).images(values.get("store"))
    return web.json_response([*map(image_value, found), *map(damaged_value, found.damaged)])


async def containers(request: web.Request, values: dict[str, Any]) -> web.Response:
    found = await permitted.catalog(request).containers(values.get("store"))
    return web.json_response([*map(container_value, found), *map(damaged_value, found.damaged)])


async def layers(request: web.Request, values: dict[str, Any]) -> web.Response:
    found = await permitted.catalog(request).layers(values.get("store"))
    return web.json_response([*map(layer_value, found), *map(damaged_value, found.damaged)])
