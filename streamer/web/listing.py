"""What is there: stores, images, containers and layers as JSON."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from streamer.stores.base import Container, Image, Layer, Store
from streamer.web.site import SITE


async def stores(request: web.Request, _values: dict[str, Any]) -> web.Response:
    return web.json_response([store_value(store) for store in request.app[SITE].catalog.stores()])


async def images(request: web.Request, values: dict[str, Any]) -> web.Response:
    found = [image for store in _stores(request, values) for image in await store.images()]
    return web.json_response([image_value(image) for image in found])


async def containers(request: web.Request, values: dict[str, Any]) -> web.Response:
    found = [container for store in _stores(request, values) for container in await store.containers()]
    return web.json_response([container_value(container) for container in found])


async def layers(request: web.Request, values: dict[str, Any]) -> web.Response:
    found = [layer for store in _stores(request, values) for layer in await store.layers()]
    return web.json_response([layer_value(layer) for layer in found])


def _stores(request: web.Request, values: dict[str, Any]) -> list[Store]:
    return request.app[SITE].catalog.stores(values.get("store"))


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
        "mounted": container.mounted is not None,
    }


def layer_value(layer: Layer) -> dict[str, Any]:
    return {
        "store": layer.store,
        "diff_id": layer.diff_id,
        "chain_id": layer.chain_id,
        "size": layer.size,
    }
