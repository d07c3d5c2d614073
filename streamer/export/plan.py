"""A decided export: plain data and one function that makes the bytes. Nothing is open until `Exporter.open`."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TypeAlias

from streamer.export.pause import Pauses
from streamer.mounts.table import MountTable
from streamer.tar.compression import Compression
from streamer.tar.entry import Profile
from streamer.tar.region import Chunk

_MEDIA_TYPES = {
    Compression.NONE: "application/x-tar",
    Compression.GZIP: "application/gzip",
    Compression.BZIP2: "application/x-bzip2",
    Compression.XZ: "application/x-xz",
    Compression.ZSTD: "application/zstd",
}


class Kind(enum.StrEnum):
    LAYER = "layer"
    DIFF = "diff"
    CONTAINER = "container"
    IMAGE = "image"
    ROOTFS = "rootfs"
    CONTEXT = "context"
    CHANGES = "changes"
    """Not an archive: a changeset as a JSON array."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a caller may choose about an archive. Defaults give what the engines themselves would send.

    `include` and `exclude` are dockerignore patterns; `mtime` clamps every modification time to at most that many
    seconds since the epoch; `path` narrows to a subtree (for a container or root file system resolved inside it as a
    chroot would, and named from its last component as `docker cp` does; for a changeset names stay whole).
    """

    compression: Compression = Compression.NONE
    profile: Profile = Profile.DOCKER
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    mtime: int | None = None
    path: bytes = b""
    pause: bool = False
    """Whether a container stands still while it is read; nothing else has anything to pause."""
    owner: tuple[int, int] | None = None
    """User and group that every member is given, None to keep them."""

    @property
    def as_is(self) -> bool:
        """True if nothing in here changes an archive's entries, so that a layer can be given back byte for byte."""
        chosen = self.include or self.exclude or self.path or self.mtime is not None or self.owner is not None
        return not chosen and self.profile is Profile.DOCKER


@dataclass(slots=True)
class Report:
    """What an export met on its way; complete once the stream ended. Never a reason for a clean end to be wrong."""

    entries: int = 0
    sockets: int = 0
    """Sockets skipped: a tar archive cannot hold them."""
    vanished: int = 0
    """Files of a running container that were gone when their turn came, before anything about them was sent."""

    def clear(self) -> None:
        """Count anew."""
        self.entries = self.sockets = self.vanished = 0


@dataclass(frozen=True, slots=True)
class Session:
    """What the function that makes the bytes may use, in the export's own thread."""

    mounts: MountTable
    report: Report
    check: Callable[[], None]
    """Raises ConsumerGone once nobody reads; called between entries, so that long silent work ends early."""
    pauses: Pauses = field(default_factory=Pauses)
    regions: bool = False
    """Whether large contents may come as regions of their files: if nothing but their length is looked at."""


Span: TypeAlias = tuple[int, int]
"""Bytes of an archive: the first, and the one behind the last."""


@dataclass(frozen=True, slots=True)
class Outline:
    """What is known of an archive before a byte of content is read, valid while the block that gave it is open.

    `size` counts the bytes of the whole uncompressed archive. `etag` is a strong validator (RFC 9110, 8.8.3) without
    its quotes: archives of the same source with the same one are the same bytes. `part` makes exactly the bytes of a
    span, in chunks as `ExportPlan.chunks` does; it raises SourceChanged in place of the last one if what it read is not
    this version any more.
    """

    size: int
    etag: str
    part: Callable[[Span], Iterator[Chunk]] = field(repr=False, compare=False)


Outlining: TypeAlias = "Callable[[Session, int], AbstractContextManager[Outline]]"
"""Makes an outline in the export's own thread and keeps the source open. The number is the first byte that will
probably be wanted: a part that begins there needs no second look at what lies before it."""


@dataclass(frozen=True, slots=True)
class Choice:
    """How much of an outlined archive is wanted: `span` decides once the outline is known (None: nothing at all), in
    the export's own thread; `first` is the byte that it will probably begin with."""

    span: Callable[[Outline], Span | None]
    first: int = 0


@dataclass(frozen=True, slots=True)
class ExportPlan:
    """One export, decided.

    `chunks(session)` makes the uncompressed tar: chunks of 256 KiB to 1 MiB, synchronously, holding leases and
    descriptors only while it runs, and closing them when it is closed. `size` and `digest` are those of the
    *uncompressed* tar where they are known beforehand; both are verified before the last chunk leaves.
    """

    kind: Kind
    title: str
    """For people and logs: `container web (1f0c2a…) of store local`."""
    basename: str
    """The file name without any suffix."""
    chunks: Callable[[Session], Iterator[Chunk]] = field(repr=False, compare=False)
    compression: Compression = Compression.NONE
    size: int | None = None
    digest: str | None = None
    outline: Outlining | None = field(default=None, repr=False, compare=False)
    """None where nothing is known before the bytes are made, or where they may be others the next time."""
    steady: bool = True
    """Whether the source stands still of its own accord, so that what an outline says will probably hold."""
    store: str = ""
    """The name of the store that the source is in."""
    coding: Compression = Compression.NONE
    """How the body is compressed on its way only (HTTP's content coding); never besides `compression`."""

    @property
    def body(self) -> Compression:
        """How the bytes that leave are compressed."""
        return self.compression if self.coding is Compression.NONE else self.coding

    @property
    def filename(self) -> str:
        return f"{self.basename}{'.json' if self.kind is Kind.CHANGES else '.tar'}{self.compression.suffix}"

    @property
    def media_type(self) -> str:
        if self.kind is Kind.CHANGES:
            return "application/json"
        return _MEDIA_TYPES[self.compression]

    @property
    def length(self) -> int | None:
        """Bytes of the whole body, None where only sending it can tell."""
        return self.size if self.body is Compression.NONE else None

    @property
    def body_digest(self) -> str | None:
        """The digest of the body as sent, None where only sending it can tell."""
        return self.digest if self.body is Compression.NONE else None
