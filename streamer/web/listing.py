"""What is there: stores, images, containers and layers as JSON."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from streamer.stores.base import Container, Damaged, Image, Layer, Store
from streamer.web.site import SITE


async def stores(request: web.Request, _values: dict[str, Any]) -> web.Response:
    return web.json_response([store_value(store) for store in request.app[SITE].catalog.stores()])


async def images(request: web.Request, values: dict[str, Any]) -> web.Response:
    found = await request.app[SITE].catalog.images(values.get("store"))
    return web.json_response([*map(image_value, found), *map(damaged_value, found.damaged)])


async def containers(request: web.Request, values: dict[str, Any]) -> web.Response:
    found = await request.app[SITE].catalog.containers(values.get("store"))
    return web.json_response([*map(container_value, found), *map(damaged_value, found.damaged)])


async def layers(request: web.Request, values: dict[str, Any]) -> web.Response:
    found = await request.app[SITE].catalog.layers(values.get("store"))
    return web.json_response([*map(layer_value, found), *map(damaged_value, found.damaged)])


def store_value(store: Store) -> dict[str, Any]:
    kind, _, location = store.location.partition(":")
    return {"name": store.name, "kind": kind, "location": location}


def image_value(image: Image) -> dict[str, Any]:
    sizes = [layer.size for layer in image.layers]
    return {
        "store": image.store,
        "id": image.id,
        "names": sorted(name.familiar for name in image.names),
        "created": image.config.created,
        "os": image.config.os,
        "architecture": image.config.architecture,
        "layers": [layer.diff_id for layer in image.layers],
        "size": None if None in sizes else sum(size or 0 for size in sizes),
    }


def container_value(container: Container) -> dict[str, Any]:
    return {
        "store": container.store,
        "id": container.id,
        "name": container.name,
        "image": container.image,
        "image_name": container.image_name,
        "created": container.created,
        "status": container.status or ("mounted" if container.mounted is not None else ""),
    }


def damaged_value(damaged: Damaged) -> dict[str, Any]:
    """What is there but cannot be read, in a listing: told by its `error`. An empty `id` is the whole store."""
    return {
        "store": damaged.store,
        "id": damaged.id,
        "names": list(damaged.names),
        "error": {"code": damaged.error.code, "detail": str(damaged.error)},
    }


def layer_value(layer: Layer) -> dict[str, Any]:
    return {
        "store": layer.store,
        "diff_id": layer.diff_id,
        "chain_id": layer.chain_id,
        "size": layer.size,
    }
