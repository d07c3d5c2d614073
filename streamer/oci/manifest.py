"""Manifests and indexes (OCI image-spec manifest.md, image-index.md), and `manifest.json` of `docker save`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from streamer.errors import InvalidArchive, LimitExceeded
from streamer.oci import descriptor, document, media
from streamer.oci.descriptor import Descriptor


@dataclass(frozen=True, slots=True)
class Manifest:
    """One image: its configuration and its layers, base first. `media_type` is the document's own, if it has one."""

    config: Descriptor
    layers: tuple[Descriptor, ...]
    media_type: str = ""

    def data(self) -> bytes:
        return document.dumps(
            {
                "schemaVersion": 2,
                "mediaType": self.media_type or media.MANIFEST,
                "config": self.config.value(),
                "layers": [layer.value() for layer in self.layers],
            }
        )


@dataclass(frozen=True, slots=True)
class Index:
    """Several manifests or further indexes, in the document's order."""

    manifests: tuple[Descriptor, ...]

    def data(self) -> bytes:
        return document.dumps(
            {
                "schemaVersion": 2,
                "mediaType": media.INDEX,
                "manifests": [manifest.value() for manifest in self.manifests],
            }
        )


def parse(data: bytes, what: str, media_type: str = "") -> Manifest | Index:
    """A manifest or an index, by its members; InvalidArchive naming `what`.

    A document that could be read as either is refused, and so is one whose own `mediaType` contradicts its descriptor
    (CVE-2021-41190: two readers would see two images).
    """
    value = document.mapping(document.loads(data, what, media.MAX_MANIFEST), what)
    has_layers = "layers" in value or "config" in value
    has_manifests = "manifests" in value
    if has_layers == has_manifests or "fsLayers" in value:
        raise InvalidArchive(f"{what} is neither clearly a manifest nor clearly an index", member=what)
    for claimed in (media_type, str(value.get("mediaType") or "")):
        if (claimed in media.INDEXES and has_layers) or (claimed in media.MANIFESTS and has_manifests):
            raise InvalidArchive(f"{what} is not what its media type {claimed} says", member=what)
    if has_manifests:
        return Index(_descriptors(value["manifests"], f"manifests in {what}"))
    return Manifest(
        config=descriptor.parse(value.get("config"), f"config in {what}"),
        layers=_descriptors(value.get("layers") or [], f"layers in {what}"),
        media_type=str(value.get("mediaType") or ""),
    )


def check_images(count: int, what: str) -> None:
    """LimitExceeded where an archive holds more images than anybody saves at once."""
    if count > media.MAX_IMAGES:
        raise LimitExceeded(f"{what} names {count} images, more than {media.MAX_IMAGES}", limit=media.MAX_IMAGES)


def _descriptors(value: Any, what: str) -> tuple[Descriptor, ...]:
    if not isinstance(value, list) or len(value) > media.MAX_DESCRIPTORS:
        raise InvalidArchive(f"{what} is not a list of at most {media.MAX_DESCRIPTORS}", member=what)
    return tuple(descriptor.parse(item, what) for item in value)


@dataclass(frozen=True, slots=True)
class SavedImage:
    """One item of `manifest.json`: paths of members of the same archive, and familiar names."""

    config: str
    layers: tuple[str, ...]
    tags: tuple[str, ...] = ()

    def value(self) -> dict[str, Any]:
        return {"Config": self.config, "RepoTags": list(self.tags) or None, "Layers": list(self.layers)}


def parse_saved(data: bytes, what: str = "manifest.json") -> tuple[SavedImage, ...]:
    """The images of a docker-archive, in order; InvalidArchive or LimitExceeded naming `what`."""
    value = document.loads(data, what, media.MAX_MANIFEST)
    if not isinstance(value, list) or not value:
        raise InvalidArchive(f"{what} is not a list of images", member=what)
    check_images(len(value), what)
    images = []
    names = 0
    for item in value:
        members = document.mapping(item, f"an image in {what}")
        config, layers, tags = members.get("Config"), members.get("Layers") or [], members.get("RepoTags") or []
        lists = (
            isinstance(layers, list) and isinstance(tags, list) and all(isinstance(x, str) for x in [*layers, *tags])
        )
        if not isinstance(config, str) or not lists:
            raise InvalidArchive(
                f"an image in {what} has no Config, Layers and RepoTags of the right types", member=what
            )
        names += len(tags)
        if names > media.MAX_NAMES:
            raise LimitExceeded(f"{what} gives more than {media.MAX_NAMES} names", limit=media.MAX_NAMES)
        images.append(SavedImage(config, tuple(layers), tuple(tags)))
    return tuple(images)
