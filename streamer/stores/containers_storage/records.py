"""The lists of a store (layers.json, images.json, containers.json) as values; their names are those of
containers/storage (`Layer`, `Image`, `Container` in its sources)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from streamer.oci import digest as digests
from streamer.stores.containers_storage.places import Place, is_id

IdMap: TypeAlias = tuple[tuple[int, int, int], ...]
"""(ID in the container, ID outside of it, how many)."""


@dataclass(frozen=True, slots=True)
class LayerRecord:
    """`diff_id` is None for a container's layer, and for an image's where only its config can tell; `size` is -1 where
    it is not known. An incomplete layer is being made or deleted."""

    place: Place
    id: str
    parent: str | None
    created: str
    diff_id: str | None
    size: int
    incomplete: bool
    uids: IdMap
    gids: IdMap


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """`digest` is that of its manifest; `documents` are the names of what is kept with it (config, manifests)."""

    place: Place
    id: str
    names: tuple[str, ...]
    digest: str
    layer: str | None
    documents: frozenset[str]


@dataclass(frozen=True, slots=True)
class ContainerRecord:
    """`engine` says that podman or CRI-O made it; others (Buildah) leave no metadata."""

    place: Place
    id: str
    names: tuple[str, ...]
    image: str
    image_name: str
    layer: str
    created: str
    uids: IdMap
    gids: IdMap
    engine: bool


def layer(value: Mapping[str, Any], place: Place) -> LayerRecord:
    """ValueError says what is wrong with it."""
    flags = value.get("flags")
    flags = flags if isinstance(flags, dict) else {}
    diff = _text(value, "diff-digest") or flags.get("expected-layer-diffid")
    size = value.get("diff-size", -1)
    return LayerRecord(
        place=place,
        id=_id(value, "id"),
        parent=_id(value, "parent") if value.get("parent") else None,
        created=_text(value, "created"),
        diff_id=diff if digests.is_digest(diff) else None,
        size=size if type(size) is int else -1,
        incomplete=bool(flags.get("incomplete")),
        uids=_map(value, "uidmap"),
        gids=_map(value, "gidmap"),
    )


def image(value: Mapping[str, Any], place: Place) -> ImageRecord:
    """ValueError says what is wrong with it."""
    return ImageRecord(
        place=place,
        id=_id(value, "id"),
        names=_texts(value, "names"),
        digest=_text(value, "digest"),
        layer=_id(value, "layer") if value.get("layer") else None,
        documents=frozenset(_texts(value, "big-data-names")),
    )


def container(value: Mapping[str, Any], place: Place) -> ContainerRecord:
    """ValueError says what is wrong with it."""
    metadata = _metadata(_text(value, "metadata"))
    return ContainerRecord(
        place=place,
        id=_id(value, "id"),
        names=_texts(value, "names"),
        image=_text(value, "image"),
        image_name=_text(metadata, "image-name"),
        layer=_id(value, "layer"),
        created=_text(value, "created"),
        uids=_map(value, "uidmap"),
        gids=_map(value, "gidmap"),
        engine=bool(metadata),
    )


def _id(value: Mapping[str, Any], key: str) -> str:
    text = value.get(key)
    if not isinstance(text, str) or not is_id(text):
        raise ValueError(f"its {key} is not an ID")
    return text


def _text(value: Mapping[str, Any], key: str) -> str:
    """Empty where it is left out."""
    text = value.get(key) or ""
    if not isinstance(text, str):
        raise ValueError(f"its {key} is not text")
    return text


def _texts(value: Mapping[str, Any], key: str) -> tuple[str, ...]:
    texts = value.get(key) or []
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"its {key} is not a list of texts")
    return tuple(texts)


def _map(value: Mapping[str, Any], key: str) -> IdMap:
    ranges = value.get(key) or []
    if not isinstance(ranges, list):
        raise ValueError(f"its {key} is not a list")
    return tuple(_range(each, key) for each in ranges)


def _range(value: Any, key: str) -> tuple[int, int, int]:
    numbers = [value.get(name) for name in ("container_id", "host_id", "size")] if isinstance(value, dict) else []
    inside, outside, size = (number if type(number) is int else -1 for number in numbers or (-1, -1, -1))
    if not all(0 <= number < 1 << 32 for number in (inside, outside, size)):
        raise ValueError(f"its {key} has a range that is none")
    return inside, outside, size


def _metadata(text: str) -> dict[str, Any]:
    """What the engine wrote for itself; none where it is no JSON object, which is its own affair."""
    try:
        value = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
