"""From what an image's name points at to the images it means: one for each platform whose documents are there.

An index, manifests, configurations: read from the content store, compared with their digests. Absent content is normal
(nobody pulls every platform); damaged content is told, and hides no other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from streamer.errors import InvalidArchive, NotFound, StoreDamaged, StreamerError
from streamer.oci import config as configs
from streamer.oci import manifest as manifests
from streamer.oci import media
from streamer.oci.config import Config
from streamer.oci.descriptor import Descriptor
from streamer.oci.manifest import Index, Manifest

_ATTESTATION = "vnd.docker.reference.type"
"""An annotation of manifests that tell about an image and are none (BuildKit's attestations)."""
_CONFIGS = frozenset({media.CONFIG, media.DOCKER_CONFIG, ""})

Read = Callable[[str, int, str], bytes]
"""A document by digest, at most so long, of what: NotFound, StoreDamaged."""


@dataclass(frozen=True, slots=True)
class Platform:
    """One image: its manifest as it came and as parsed, and its configuration."""

    digest: str
    data: bytes
    manifest: Manifest
    config: Config

    @property
    def own(self) -> bool:
        """Whether it is for this machine."""
        return self.config.os == "linux" and self.config.architecture == configs.machine()


@dataclass(frozen=True, slots=True)
class Broken:
    """A document that is there and cannot be read."""

    digest: str
    error: StreamerError


def platforms(target: Descriptor, read: Read, what: str) -> list[Platform | Broken]:
    """Everything that `target` means: for this machine first, then as its documents list it."""
    found = list(_found(target, read, what, 0))
    return sorted(found, key=lambda each: not (isinstance(each, Platform) and each.own))


def _found(target: Descriptor, read: Read, what: str, depth: int) -> Iterator[Platform | Broken]:
    try:
        data = read(target.digest, media.MAX_MANIFEST, what)
    except NotFound:
        return
    except StoreDamaged as error:
        yield Broken(target.digest, error)
        return
    try:
        document = manifests.parse(data, f"blob {target.digest} of {what}", target.media_type)
        if isinstance(document, Index):
            yield from _listed(target, document, read, what, depth)
        else:
            yield from _image(target, data, document, read, what)
    except NotFound as error:
        # Of other platforms there may be a manifest without its configuration.
        if not depth:
            yield Broken(target.digest, StoreDamaged(str(error)))
    except InvalidArchive as error:
        yield Broken(target.digest, StoreDamaged(str(error)))
    except StoreDamaged as error:
        yield Broken(target.digest, error)


def _listed(target: Descriptor, index: Index, read: Read, what: str, depth: int) -> Iterator[Platform | Broken]:
    if depth == media.MAX_INDEX_DEPTH:
        yield Broken(target.digest, StoreDamaged(f"blob {target.digest} of {what} is an index nested too deeply"))
        return
    for each in index.manifests:
        if _ATTESTATION not in each.annotations:
            yield from _found(each, read, what, depth + 1)


def _image(target: Descriptor, data: bytes, manifest: Manifest, read: Read, what: str) -> Iterator[Platform]:
    if manifest.config.media_type not in _CONFIGS:
        return  # an artifact
    config = configs.parse(
        read(manifest.config.digest, media.MAX_CONFIG, what), f"blob {manifest.config.digest} of {what}"
    )
    if config.os == "unknown":
        return
    if len(config.diff_ids) != len(manifest.layers):
        raise StoreDamaged(
            f"blob {target.digest} of {what} has {len(manifest.layers)} layers,"
            f" its configuration {len(config.diff_ids)}"
        )
    yield Platform(target.digest, data, manifest, config)
