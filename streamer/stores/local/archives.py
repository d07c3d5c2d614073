"""Image archives and layouts explained: from their documents to images, each with configuration, names and blobs.

Only documents are read here, each once, bounded alone and all together, and compared with its descriptor; layers are
named, not opened.
"""

from __future__ import annotations

import posixpath
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from streamer.errors import InvalidArchive, InvalidReference, LimitExceeded, Unsupported
from streamer.mounts.overlay import LAYERS_MAX
from streamer.oci import config as configs
from streamer.oci import digest as digests
from streamer.oci import document, manifest, media
from streamer.oci import reference as references
from streamer.oci.config import Config
from streamer.oci.descriptor import Descriptor
from streamer.oci.manifest import Index, Manifest
from streamer.oci.reference import Reference
from streamer.stores.local.members import Member, Members
from streamer.stores.local.source import verified

MAX_LAYERS = LAYERS_MAX - 1
"""Of an image: a container of it stacks one more, and all of them are mounted over one another."""

_Key: TypeAlias = tuple[str, str, int]

_ATTESTATION = "vnd.docker.reference.type"


@dataclass(frozen=True, slots=True)
class FoundLayer:
    """A layer's blob as it lies there, in any compression. `descriptor` is None in a docker-archive."""

    member: Member
    diff_id: str
    descriptor: Descriptor | None = None


@dataclass(frozen=True, slots=True)
class FoundImage:
    """One image of an archive; `layers` base first."""

    config: Config
    names: tuple[Reference, ...]
    layers: tuple[FoundLayer, ...]


def docker_archive(members: Members) -> list[FoundImage]:
    """The images of `manifest.json`, in its order."""
    if members.find("manifest.json") is None:
        if members.find("repositories") is not None:
            raise Unsupported(
                "the archive was saved by a Docker older than 1.10 (it has no manifest.json): load it into an engine"
                " and save it again"
            )
        raise InvalidArchive("the archive has no manifest.json", member="manifest.json")
    documents = _Documents(members)
    found: dict[str, Config] = {}
    images = []
    for saved in manifest.parse_saved(documents.data("manifest.json", media.MAX_MANIFEST)):
        config = found.get(saved.config)
        if config is None:
            config = found[saved.config] = _saved_config(documents, saved.config)
        _check_count(len(saved.layers), config, saved.config)
        layers = tuple(
            FoundLayer(documents.member(path), diff_id)
            for path, diff_id in zip(saved.layers, config.diff_ids, strict=True)
        )
        images.append(FoundImage(config, tuple(_tagged(tag) for tag in saved.tags), layers))
    return images


def _saved_config(documents: _Documents, path: str) -> Config:
    config = configs.parse(documents.data(path, media.MAX_CONFIG), path)
    promised = _digest_in(path)
    if promised is not None and config.id != promised:
        verified(config.data, path, promised)
    return config


def oci_layout(members: Members) -> list[FoundImage]:
    """The images of `index.json`, in its order; of a nested index the one for this machine, or the only one."""
    documents = _Documents(members)
    version = document.mapping(document.loads(documents.data("oci-layout", 4096), "oci-layout", 4096), "oci-layout")
    if not str(version.get("imageLayoutVersion", "")).startswith("1."):
        raise Unsupported("the layout has another version than 1.x in its oci-layout file")
    index = manifest.parse(documents.data("index.json", media.MAX_MANIFEST), "index.json")
    if not isinstance(index, Index):
        raise InvalidArchive("index.json is not an image index", member="index.json")
    listed = [descriptor for descriptor in index.manifests if _ATTESTATION not in descriptor.annotations]
    if not listed:
        raise InvalidArchive("index.json names no image", member="index.json")
    manifest.check_images(len(listed), "index.json")
    reading = _Reading(documents)
    return [replace(reading.image(descriptor), names=_names(descriptor)) for descriptor in listed]


@dataclass(slots=True)
class _Documents:
    """Reads members of an archive that explain others; counts their bytes, for what they say is held in memory."""

    members: Members
    count: int = 0
    found: dict[str, Member] = field(default_factory=dict)

    def member(self, path: str) -> Member:
        member = self.found.get(path) or self.members.find(path)
        if member is None:
            raise InvalidArchive(f"{path[:300]} is named by the archive's documents, but missing", member=path[:300])
        self.found[path] = member
        return member

    def data(self, path: str, limit: int) -> bytes:
        member = self.member(path)
        self.count += min(member.size, limit)
        if self.count > media.MAX_DOCUMENTS:
            raise LimitExceeded(
                f"the manifests and configurations of the archive have more than {media.MAX_DOCUMENTS} bytes",
                limit=media.MAX_DOCUMENTS,
            )
        return member.data(limit)


@dataclass(slots=True)
class _Reading:
    """Reads each image and each configuration once, however often they are named; counts descriptors, so that indexes
    of indexes cannot fan out without bound."""

    documents: _Documents
    count: int = 0
    images: dict[_Key, FoundImage] = field(default_factory=dict)
    configs: dict[_Key, Config] = field(default_factory=dict)

    def image(self, descriptor: Descriptor) -> FoundImage:
        """Without the names that the index gives it."""
        key = _key(descriptor)
        if key not in self.images:
            self.images[key] = self._image(descriptor)
        return self.images[key]

    def _image(self, descriptor: Descriptor) -> FoundImage:
        found = self._manifest(descriptor, depth=1, above=())
        what = posixpath.basename(_path(found.config.digest))
        config = self.configs.get(_key(found.config))
        if config is None:
            config = configs.parse(self._blob(found.config, media.MAX_CONFIG), what)
            self.configs[_key(found.config)] = config
        _check_count(len(found.layers), config, what)
        layers = tuple(
            FoundLayer(self._layer(layer), diff_id, layer)
            for layer, diff_id in zip(found.layers, config.diff_ids, strict=True)
        )
        return FoundImage(config, (), layers)

    def _manifest(self, descriptor: Descriptor, depth: int, above: tuple[str, ...]) -> Manifest:
        if depth > media.MAX_INDEX_DEPTH or descriptor.digest in above:
            raise LimitExceeded(
                f"index.json nests indexes deeper than {media.MAX_INDEX_DEPTH}", limit=media.MAX_INDEX_DEPTH
            )
        data, what = self._blob(descriptor, media.MAX_MANIFEST), _path(descriptor.digest)
        found = manifest.parse(data, what, descriptor.media_type)
        if isinstance(found, Manifest):
            return found
        chosen = _for_this_machine(found, data, what)
        return self._manifest(chosen, depth + 1, (*above, descriptor.digest))

    def _blob(self, descriptor: Descriptor, limit: int) -> bytes:
        self.count += 1
        if self.count > media.MAX_DESCRIPTORS:
            raise LimitExceeded(
                f"the layout has more than {media.MAX_DESCRIPTORS} descriptors", limit=media.MAX_DESCRIPTORS
            )
        path = _path(descriptor.digest)
        return verified(self.documents.data(path, limit), path, descriptor.digest, descriptor.size)

    def _layer(self, descriptor: Descriptor) -> Member:
        member = self.documents.member(_path(descriptor.digest))
        if member.size != descriptor.size:
            raise InvalidArchive(
                f"{member.name} has {member.size} bytes where {descriptor.size} were promised", member=member.name
            )
        return member


def _for_this_machine(index: Index, data: bytes, what: str) -> Descriptor:
    """`Descriptor` leaves the platform out, so it is read from the document again, at the same positions."""
    listed = document.mapping(document.loads(data, what, media.MAX_MANIFEST), what)["manifests"]
    candidates = [
        (descriptor, item.get("platform") or {})
        for descriptor, item in zip(index.manifests, listed, strict=True)
        if _ATTESTATION not in descriptor.annotations
    ]
    if len(candidates) == 1:
        return candidates[0][0]
    machine = configs.machine()
    own = [descriptor for descriptor, wanted in candidates if _matches(wanted, machine)]
    if not own:
        raise Unsupported(f"{what} lists several images, none of them for linux/{machine}")
    return own[0]


def _matches(wanted: Any, machine: str) -> bool:
    return isinstance(wanted, dict) and (wanted.get("os"), wanted.get("architecture")) == ("linux", machine)


def _names(descriptor: Descriptor) -> tuple[Reference, ...]:
    """The name an index gives: containerd's full one, or a `ref.name` that is more than a bare tag."""
    full = descriptor.annotations.get(media.IMAGE_NAME)
    if full is not None:
        return (_tagged(full),)
    name = descriptor.annotations.get(media.REF_NAME, "")
    if ":" in name or "/" in name:
        try:
            parsed = references.parse(name).tagged()
        except InvalidReference:
            return ()
        return (parsed,) if parsed.digest is None else ()
    return ()


def _tagged(text: str) -> Reference:
    try:
        name = references.parse(text).tagged()
    except InvalidReference as error:
        raise InvalidArchive(f"the archive names an image wrongly: {error}", member="manifest.json") from None
    if name.tag is None:
        raise InvalidArchive(f"the archive names an image {text[:300]!r}, a digest and not a tag")
    return Reference(name.repository, name.tag)


def _digest_in(path: str) -> str | None:
    """The digest that a configuration's name promises: `<hex>.json`, `blobs/sha256/<hex>`."""
    stem = posixpath.basename(path).removesuffix(".json")
    found = f"sha256:{stem}"
    return found if digests.is_digest(found) else None


def _path(digest: str) -> str:
    return f"blobs/{digests.algorithm(digest)}/{digests.encoded(digest)}"


def _key(descriptor: Descriptor) -> _Key:
    return descriptor.media_type, descriptor.digest, descriptor.size


def _check_count(layers: int, config: Config, what: str) -> None:
    if layers != len(config.diff_ids):
        raise InvalidArchive(
            f"the image of {what} has {layers} layers, its configuration names {len(config.diff_ids)}", member=what
        )
    check_layers(layers, f"the image of {what}")


def check_layers(count: int, what: str) -> None:
    """LimitExceeded for an image whose containers could not be mounted."""
    if count > MAX_LAYERS:
        raise LimitExceeded(f"{what} has {count} layers, more than {MAX_LAYERS}", limit=MAX_LAYERS)
