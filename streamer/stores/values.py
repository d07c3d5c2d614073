"""Records as JSON values: what the HTTP API and `--json` give."""

from __future__ import annotations

from typing import Any

from streamer.stores.base import Container, Damaged, Image, Layer, Store


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
