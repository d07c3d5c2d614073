"""What every store answers with: layers, images and containers as plain records, found by reference.

A record holds nothing open. Its `guard`s are the store's end check: called after the last byte was read and before the
trailer is written, each raises SourceChanged if the store meanwhile removed or replaced what was read. A deleted layer
looks like an empty directory, not like an error, so without this check an archive could end early and look complete.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from streamer.mounts.mount import Snapshot
from streamer.oci.config import Config
from streamer.oci.reference import Reference

Guard: TypeAlias = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Layer:
    """One read-only layer. `size` is the length of its tar in bytes, None where it cannot be known without making it.

    `snapshot` shows the layer with everything below it, `parent` what is below it (None for a base layer).
    `assemble`, where the store kept tar-split data, gives the original tar byte for byte: chunks of 256 KiB and more,
    synchronously, without any mount; it raises SourceChanged if a file no longer is what it was.
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
