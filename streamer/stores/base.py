"""What every store answers with: layers, images and containers as plain records, found by reference.

A record holds nothing open. Its `guard`s are the store's end check: called after the last byte was read and before the
trailer is written, each raises SourceChanged if the store meanwhile removed or replaced what was read. A deleted layer
looks like an empty directory, not like an error, so without this check an archive could end early and look complete.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeAlias

from streamer.mounts.mount import Snapshot
from streamer.oci.config import Config
from streamer.oci.reference import Reference
from streamer.tar.source import Limits, Source

Guard: TypeAlias = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Layer:
    """One read-only layer. `size` is the length of its tar in bytes, None where it cannot be known without making it.

    `snapshot` shows the layer with everything below it, `parent` what is below it (None for a base layer).
    `assemble`, where the store kept tar-split data, gives the original tar byte for byte: chunks of 256 KiB and more,
    synchronously, without any mount; it raises SourceChanged if a file no longer is what it was. Whether the whole has
    its digest is for the reader to check: bytes are hashed once.
    """

    store: str
    diff_id: str
    chain_id: str
    snapshot: Snapshot
    parent: Snapshot | None = None
    size: int | None = None
    assemble: Callable[[], Iterator[bytes]] | None = field(default=None, compare=False, repr=False)
    guard: Guard | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Image:
    """One image: `names` in no particular order, `layers` base first."""

    store: str
    config: Config
    names: tuple[Reference, ...]
    layers: tuple[Layer, ...]

    @property
    def id(self) -> str:
        return self.config.id


@dataclass(frozen=True, slots=True)
class Container:
    """One container. `snapshot` is what it sees, `parent` its image's file system (None for an empty image)."""

    store: str
    id: str
    name: str
    image: str
    image_name: str
    created: str
    snapshot: Snapshot
    parent: Snapshot | None
    mounted: str | None = None
    guard: Guard | None = field(default=None, compare=False, repr=False)


class Store(Protocol):
    """Finds things. Every method raises NotFound, Ambiguous (with candidates) or InvalidReference for a bad reference,
    and StoreDamaged naming the file where the store's own files are wrong."""

    @property
    def name(self) -> str: ...

    @property
    def location(self) -> str:
        """As `--store` takes it: `local:/var/lib/streamer`."""
        ...

    async def images(self) -> list[Image]: ...

    async def containers(self) -> list[Container]: ...

    async def layers(self) -> list[Layer]: ...

    async def image(self, reference: str) -> Image:
        """By name (without tag: `latest`), full ID, or a unique prefix of an ID."""
        ...

    async def named(self, repository: str) -> list[tuple[Reference, Image]]:
        """Every tag of a repository, sorted by tag; empty if there is none."""
        ...

    async def container(self, reference: str) -> Container:
        """By name, full ID, or a unique prefix of an ID."""
        ...

    async def layer(self, digest: str) -> Layer:
        """By chain ID, or by diff ID (any one of several layers with that diff ID: their tars are the same)."""
        ...


class ArchiveKind(enum.StrEnum):
    """What an archive is. AUTO tells an image archive from a root file system by its first member that is a file."""

    AUTO = "auto"
    DOCKER_ARCHIVE = "docker-archive"
    OCI = "oci"
    ROOTFS = "rootfs"


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import brought. `moved` maps familiar names that another image had to that image's ID; `bytes` were read
    from the source."""

    images: tuple[Image, ...]
    layers_new: int
    layers_shared: int
    bytes: int
    moved: Mapping[str, str]


class WritableStore(Store, Protocol):
    """A store that takes images in. Every method is all or nothing: a failure leaves no name and no file behind."""

    async def import_archive(
        self,
        source: Source | Path,
        *,
        name: str | None = None,
        kind: ArchiveKind = ArchiveKind.AUTO,
        progress: Callable[[int], None] | None = None,
        limits: Limits = ...,
    ) -> ImportReport:
        """Takes in an archive in any compression, verified against every digest it names. `source` is read in a thread
        of the store's own; a path may be a file or an OCI layout directory. `progress` is told the bytes read so far.

        InvalidArchive, DigestMismatch, LimitExceeded, StorageFull, Unsupported, each naming the member; what the source
        raises passes through.
        """
        ...

    async def commit(
        self, container: str, source: Source, name: str | None = None, *, comment: str = "", author: str = ""
    ) -> Image:
        """A new image: the container's image and, on top, the layer tar that `source` gives."""
        ...
