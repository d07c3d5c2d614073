"""Image archives and layouts explained: from their documents to images, each with configuration, names and blobs.

Only documents are read here, each bounded and compared with its descriptor; layers are named, not opened.
"""

from __future__ import annotations

import platform
import posixpath
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from streamer.errors import InvalidArchive, InvalidReference, LimitExceeded, Unsupported
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

MAX_LAYERS = 500
"""More cannot be mounted (`facts/stores.md` 5.1)."""

_MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}
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
    listed = members.find("manifest.json")
    if listed is None:
        if members.find("repositories") is not None:
            raise Unsupported(
                "the archive was saved by a Docker older than 1.10 (it has no manifest.json): load it into an engine"
                " and save it again"
            )
        raise InvalidArchive("the archive has no manifest.json", member="manifest.json")
    images = []
    for saved in manifest.parse_saved(listed.data(media.MAX_MANIFEST)):
        config = configs.parse(_document(members, saved.config, media.MAX_CONFIG), saved.config)
        promised = _digest_in(saved.config)
        if promised is not None and config.id != promised:
            verified(config.data, saved.config, promised)
        _check_count(len(saved.layers), config, saved.config)
        layers = tuple(
            FoundLayer(_member(members, path), diff_id)
            for path, diff_id in zip(saved.layers, config.diff_ids, strict=True)
        )
        images.append(FoundImage(config, tuple(_tagged(tag) for tag in saved.tags), layers))
    return images


def oci_layout(members: Members) -> list[FoundImage]:
    """The images of `index.json`, in its order; of a nested index the one for this machine, or the only one."""
    version = document.mapping(document.loads(_document(members, "oci-layout", 4096), "oci-layout", 4096), "oci-layout")
    if not str(version.get("imageLayoutVersion", "")).startswith("1."):
        raise Unsupported("the layout has another version than 1.x in its oci-layout file")
    data = _document(members, "index.json", media.MAX_MANIFEST)
    index = manifest.parse(data, "index.json")
    if not isinstance(index, Index):
        raise InvalidArchive("index.json is not an image index", member="index.json")
    reading = _Reading(members)
    images = [
        reading.image(descriptor, _names(descriptor))
        for descriptor in index.manifests
        if _ATTESTATION not in descriptor.annotations
    ]
    if not images:
        raise InvalidArchive("index.json names no image", member="index.json")
    return images


@dataclass(slots=True)
class _Reading:
    """Counts descriptors, so that indexes of indexes cannot fan out without bound."""

    members: Members
    count: int = 0

    def image(self, descriptor: Descriptor, names: tuple[Reference, ...]) -> FoundImage:
        found = self._manifest(descriptor, depth=1, above=())
        what = posixpath.basename(_path(found.config.digest))
        config = configs.parse(self._blob(found.config, media.MAX_CONFIG), what)
        _check_count(len(found.layers), config, what)
        layers = tuple(
            FoundLayer(self._layer(layer), diff_id, layer)
            for layer, diff_id in zip(found.layers, config.diff_ids, strict=True)
        )
        return FoundImage(config, names, layers)

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
        return verified(_document(self.members, path, limit), path, descriptor.digest, descriptor.size)

    def _layer(self, descriptor: Descriptor) -> Member:
        member = _member(self.members, _path(descriptor.digest))
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
    machine = _MACHINES.get(platform.machine(), platform.machine())
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


def _member(members: Members, path: str) -> Member:
    member = members.find(path)
    if member is None:
        raise InvalidArchive(f"{path[:300]} is named by the archive's documents, but missing", member=path[:300])
    return member


def _document(members: Members, path: str, limit: int) -> bytes:
    return _member(members, path).data(limit)


def _check_count(layers: int, config: Config, what: str) -> None:
    if layers != len(config.diff_ids):
        raise InvalidArchive(
            f"the image of {what} has {layers} layers, its configuration names {len(config.diff_ids)}", member=what
        )
    if layers > MAX_LAYERS:
        raise LimitExceeded(f"the image of {what} has {layers} layers, more than {MAX_LAYERS}", limit=MAX_LAYERS)


READERS: dict[str, Callable[[Members], list[FoundImage]]] = {"docker-archive": docker_archive, "oci": oci_layout}
