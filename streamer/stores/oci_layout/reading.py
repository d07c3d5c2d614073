"""From `index.json` to images: one walk through a layout's indexes, manifests and configurations."""

from __future__ import annotations

import itertools
import time
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from streamer.errors import LimitExceeded, StoreDamaged, StreamerError
from streamer.mounts.overlay import LAYERS_MAX
from streamer.oci import config as configs
from streamer.oci import descriptor as descriptors
from streamer.oci import document, layout, manifest, media
from streamer.oci.config import Config
from streamer.oci.descriptor import Descriptor, Platform
from streamer.oci.manifest import Manifest
from streamer.oci.reference import Reference
from streamer.stores.index import Contradictory
from streamer.stores.oci_layout.directory import Directory, Missing, told

ATTEMPTS = 5
PAUSE = 0.02
"""Seconds in which who writes an index gets further with it."""

_Key: TypeAlias = tuple[str, str, int]

UNKNOWN = "unknown"
"""Operating system and architecture of what BuildKit puts beside images, for others to leave alone."""


@dataclass(frozen=True, slots=True)
class FoundImage:
    """One manifest of a layout whose configuration could be read. `data` is the manifest as it lies there."""

    id: str
    diff_ids: tuple[str, ...]
    manifest: Manifest
    data: bytes = field(repr=False)


@dataclass(slots=True)
class Found:
    """What a layout holds, in the order of its index.

    `images` are by ID, each with every manifest that has its configuration. `damaged` is what cannot be read, by the
    digest under which it is named, or its position in `index.json`.
    """

    images: dict[str, list[FoundImage]] = field(default_factory=dict)
    names: dict[Reference, Collection[str]] = field(default_factory=dict)
    aliases: dict[str, list[str]] = field(default_factory=dict)
    damaged: dict[str, StreamerError] = field(default_factory=dict)


def settled(directory: Directory, repository: str) -> Found:
    """`found`, again while the layout is being written: engines do not replace `index.json` in one step, and remove
    blobs that it no longer names."""
    for attempt in itertools.count(1):
        before = directory.index_identity()
        try:
            result = found(directory, repository)
        except StreamerError:
            time.sleep(PAUSE)
            if attempt == ATTEMPTS or directory.index_identity() == before:
                raise
        else:
            if not result.damaged or attempt == ATTEMPTS or directory.index_identity() == before:
                break
    return result


def found(directory: Directory, repository: str) -> Found:
    """Everything in the layout. StoreDamaged, Unsupported, NotPermitted, LimitExceeded where not even its index can be
    read; what else is damaged is among what is found."""
    directory.check()
    walk = _Walk(directory)
    for position, entry in enumerate(_entries(directory.index())):
        if isinstance(entry, StreamerError):
            walk.found.damaged[f"{layout.INDEX} manifests[{position}]"] = entry
            continue
        identities = walk.entry(entry)
        name = layout.name(entry, repository)
        if name is not None:
            walk.name(name, identities)
    walk.settle()
    return walk.found


def _entries(data: bytes) -> list[Descriptor | StreamerError]:
    """What `index.json` lists, each entry by itself: one that is malformed hides no other."""
    with told():
        value = document.mapping(document.loads(data, layout.INDEX, media.MAX_MANIFEST), layout.INDEX)
    listed = value.get("manifests")
    if listed is None:  # as Go writes an empty list
        listed = []
    if not isinstance(listed, list) or "layers" in value or "config" in value:
        raise StoreDamaged(f"{layout.INDEX} is not an image index", file=layout.INDEX)
    if len(listed) > media.MAX_DESCRIPTORS:
        raise LimitExceeded(
            f"{layout.INDEX} lists more than {media.MAX_DESCRIPTORS} images", limit=media.MAX_DESCRIPTORS
        )
    return [_entry(item) for item in listed]


def _entry(item: object) -> Descriptor | StreamerError:
    try:
        with told():
            return descriptors.parse(item, layout.INDEX)
    except StoreDamaged as error:
        return error


@dataclass(slots=True)
class _Walk:
    """Reads each document once, however often it is named; counts them and their bytes, so that indexes of indexes
    cannot fan out, nor fill the memory."""

    directory: Directory
    found: Found = field(default_factory=Found)
    count: int = 0
    size: int = 0
    read: dict[_Key, list[str]] = field(default_factory=dict)
    configs: dict[str, Config] = field(default_factory=dict)
    platforms: dict[str, bool] = field(default_factory=dict)
    named: dict[Reference, list[list[str]]] = field(default_factory=dict)

    def entry(self, descriptor: Descriptor, depth: int = 1) -> list[str]:
        """The IDs of a descriptor's images, this machine's first; empty where it is of something else."""
        if not _is_image(descriptor):
            return []
        # All that is promised of it: a wrong promise elsewhere says nothing about this one.
        key = descriptor.media_type, descriptor.digest, descriptor.size
        if key not in self.read:
            self.read[key] = self._guarded(descriptor, depth)
        return self.read[key]

    def name(self, name: Reference, identities: list[str]) -> None:
        if identities:
            self.named.setdefault(name, []).append(identities)

    def settle(self) -> None:
        """Names mean this machine's images first; one that several entries have, for different images that this machine
        would take, means none. A digest that is an image after all, where another entry has it right, is no name of
        what is damaged."""
        found = self.found
        wrong = {digest: f"{digest} as {layout.INDEX} has it" for digest in found.damaged if digest in found.aliases}
        found.damaged = {wrong.get(identity, identity): error for identity, error in found.damaged.items()}
        for name, entries in self.named.items():
            meant = {wrong.get(each[0], each[0]) for each in entries}
            meant = {identity for identity in meant if self._native(identity)} or meant
            identities = dict.fromkeys(wrong.get(each, each) for entry in entries for each in entry)
            ids = sorted(identities, key=lambda identity: not self._native(identity))
            found.names[name] = Contradictory(ids) if len(meant) > 1 else ids

    def _native(self, identity: str) -> bool:
        return self.platforms.get(identity, False)

    def _guarded(self, descriptor: Descriptor, depth: int) -> list[str]:
        try:
            return self._read(descriptor, depth)
        except LimitExceeded:
            raise
        except StreamerError as error:
            self.found.damaged[descriptor.digest] = error
            return [descriptor.digest]

    def _read(self, descriptor: Descriptor, depth: int) -> list[str]:
        if depth > media.MAX_INDEX_DEPTH:
            raise StoreDamaged(f"{layout.INDEX} nests indexes deeper than {media.MAX_INDEX_DEPTH}", file=layout.INDEX)
        path = layout.blob(descriptor.digest)
        data = self._document(descriptor, media.MAX_MANIFEST)
        with told():
            parsed = manifest.parse(data, path, descriptor.media_type)
        if isinstance(parsed, Manifest):
            identities = self._image(descriptor, parsed, data)
        else:
            identities = self._children(parsed.manifests, path, depth)
        # An index means what its name would: the image for this machine.
        self.found.aliases[descriptor.digest] = identities[:1]
        return identities

    def _children(self, listed: tuple[Descriptor, ...], path: str, depth: int) -> list[str]:
        """Images of an index. Those whose manifest is not there were left out when the layout was made, for one
        platform only; unless all of them were."""
        wanted = [each for each in listed if _is_image(each)]
        there = [each for each in wanted if self.directory.has(each.digest)]
        if wanted and not there:
            raise Missing(f"{layout.blob(wanted[0].digest)} is missing, and so is all that {path} lists", file=path)
        identities: dict[str, None] = {}
        for each in there:
            identities.update(dict.fromkeys(self.entry(each, depth + 1)))
        return sorted(identities, key=lambda identity: not self._native(identity))

    def _image(self, descriptor: Descriptor, parsed: Manifest, data: bytes) -> list[str]:
        if _is_artifact(parsed):
            return []
        path = layout.blob(parsed.config.digest)
        config = self.configs.get(parsed.config.digest)
        if config is None:
            with told():
                config = configs.parse(self._document(parsed.config, media.MAX_CONFIG), path)
            self.configs[parsed.config.digest] = config = replace(config, data=b"")  # read again for its record
        if len(parsed.layers) != len(config.diff_ids):
            raise StoreDamaged(
                f"{layout.blob(descriptor.digest)} has {len(parsed.layers)} layers, its configuration {path} names "
                f"{len(config.diff_ids)}",
                file=layout.blob(descriptor.digest),
            )
        if len(parsed.layers) > LAYERS_MAX:
            raise StoreDamaged(f"{path} names more than {LAYERS_MAX} layers", file=path)
        platform = descriptor.platform or Platform(config.os, config.architecture)
        native = (platform.os, platform.architecture) == ("linux", configs.machine())
        self.platforms[config.id] = self.platforms.get(config.id, False) or native
        self.found.images.setdefault(config.id, []).append(FoundImage(config.id, config.diff_ids, parsed, data))
        if parsed.config.digest != config.id:
            self.found.aliases[parsed.config.digest] = [config.id]
        return [config.id]

    def _document(self, descriptor: Descriptor, limit: int) -> bytes:
        self.count += 1
        self.size += min(descriptor.size, limit)
        if self.count > media.MAX_DESCRIPTORS:
            raise LimitExceeded(
                f"the layout has more than {media.MAX_DESCRIPTORS} documents", limit=media.MAX_DESCRIPTORS
            )
        if self.size > media.MAX_DOCUMENTS:
            raise LimitExceeded(
                f"the manifests and configurations of the layout have more than {media.MAX_DOCUMENTS} bytes",
                limit=media.MAX_DOCUMENTS,
            )
        return self.directory.document(descriptor, limit)


def _is_image(descriptor: Descriptor) -> bool:
    """Whether an entry of an index may be an image: not what an unknown media type names, which the specification says
    to ignore, nor an attestation of BuildKit's."""
    platform = descriptor.platform
    return (
        descriptor.media_type in media.MANIFESTS | media.INDEXES | {""}
        and media.REFERENCE_TYPE not in descriptor.annotations
        and (platform is None or (platform.os, platform.architecture) != (UNKNOWN, UNKNOWN))
    )


def _is_artifact(parsed: Manifest) -> bool:
    """Whether a manifest is of something that is no image: a signature, a chart, a list of materials."""
    if parsed.config.media_type not in media.CONFIGS | {""}:
        return True
    return bool(parsed.layers) and not any(
        each.media_type.startswith(media.LAYERS) or not each.media_type for each in parsed.layers
    )
