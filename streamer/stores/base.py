"""What every store answers with: layers, images and containers as plain records, found by reference.

A record holds nothing open. Its `guard`s are the store's end check: called after the last byte was read and before the
trailer is written, each raises SourceChanged if the store meanwhile removed or replaced what was read. A deleted layer
looks like an empty directory, not like an error, so without this check an archive could end early and look complete.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Protocol, TypeAlias, TypeVar

from streamer.errors import StreamerError, Unsupported
from streamer.mounts.mount import Snapshot
from streamer.oci import digest as digests
from streamer.oci.config import Config
from streamer.oci.descriptor import Descriptor
from streamer.oci.reference import Reference
from streamer.tar.entry import Entry
from streamer.tar.source import Limits, Source

Guard: TypeAlias = Callable[[], None]
Pair: TypeAlias = tuple[Snapshot, Snapshot | None]
"""What is to be read, and what lies below it (None: nothing)."""
Hold: TypeAlias = Callable[[], AbstractContextManager[Pair]]
"""Entered in an export's own thread: asks the engine to keep a file system for as long as the block is open."""

Headers: TypeAlias = Callable[[], Generator[tuple[bytes, Entry], None, None]]


class Reading(Protocol):
    """Gives the bytes of something stored, synchronously: all of them, or from `start` on up to before `stop` (None:
    the end). Who asks closes the iterator. Whether there are as many as there should be is for the reader to check."""

    def __call__(self, start: int = 0, stop: int | None = None, /) -> Iterator[bytes]: ...


@dataclass(frozen=True, slots=True)
class Blob:
    """A layer as it came from a registry, still kept by the store: `read` gives the bytes that `descriptor` names, in
    chunks of at most 1 MiB, and nothing that lies before a span is read; whether the whole has the digest is for the
    reader to check."""

    descriptor: Descriptor
    read: Reading = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Layer:
    """One read-only layer. `size` is the length of its tar in bytes, None where it cannot be known without making it.

    `snapshot` shows the layer with everything below it, `parent` what is below it (None for a base layer); None where
    only `hold` can tell, or where the store keeps no file system at all (see `held`).
    `assemble`, where the store can, gives the original tar byte for byte, without any mount, in chunks of 256 KiB and
    more. From tar-split data: only the files that a span touches are opened. It raises NotPermitted if one of them may
    not be read, SourceChanged if one is not what it was: each is compared with its checksum, but of one above 1 MiB
    that lies partly in the span only that part is read, and its size compared. From a compressed blob: what lies before
    the span is decompressed and thrown away, and the blob is compared with its digest only where the reading comes to
    its end. Whether the whole has its digest is for the reader to check: bytes are hashed once.
    `headers`, where the files on the disk do not have the owners and modes of the tar (an ordinary user's embedded
    store), gives each member of the tar in its order, without content, behind the path from the layer's root that it
    was put at. Names are not changed; of a hard link `linkname` is the file's path. Who asks closes it. StoreDamaged.
    """

    store: str
    diff_id: str
    chain_id: str
    snapshot: Snapshot | None = None
    parent: Snapshot | None = None
    size: int | None = None
    assemble: Reading | None = field(default=None, compare=False, repr=False)
    guard: Guard | None = field(default=None, compare=False, repr=False)
    hold: Hold | None = field(default=None, compare=False, repr=False)
    blob: Blob | None = field(default=None, compare=False, repr=False)
    headers: Headers | None = field(default=None, compare=False, repr=False)

    def held(self) -> AbstractContextManager[Pair]:
        """The layer's file system and the one below it, kept while the block is open; Unsupported if there is none."""
        if self.hold is not None:
            return self.hold()
        if self.snapshot is None:
            raise Unsupported(
                f"layer {digests.short(self.diff_id)} of store {self.store} is not unpacked, so only its tar can be "
                "given; `streamer import` the image to get at its files"
            )
        return nullcontext((self.snapshot, self.parent))


@dataclass(frozen=True, slots=True)
class Image:
    """One image: `names` (each with a tag) in no particular order, `layers` base first.

    `manifest` is the document as it came (an OCI or Docker manifest, not an index), where every blob that it names is
    still kept (`Layer.blob`), so that the image can be saved as it was pulled; None otherwise.
    """

    store: str
    config: Config
    names: tuple[Reference, ...]
    layers: tuple[Layer, ...]
    manifest: bytes | None = field(default=None, repr=False)

    @property
    def id(self) -> str:
        return self.config.id


class Freezer(Protocol):
    """Pauses one container, through its engine only. Synchronous, called in an export's own thread.

    EngineUnreachable where the engine does not answer; Conflict where it refuses.
    """

    def pause(self) -> bool:
        """Pauses; False if there was nothing to do: paused already (then it stays so), or not running."""
        ...

    def resume(self) -> None:
        """Resumes; nothing to do is fine (stopped or removed meanwhile, resumed by somebody)."""
        ...

    def still(self) -> bool:
        """Whether nothing of the container runs now: paused, or not running."""
        ...

    @property
    def resume_command(self) -> tuple[str, ...]:
        """A program and its arguments that do what `resume` does, for when this process is killed."""
        ...


_RUNNING = frozenset(("running", "restarting", "removing", "stopping", "pausing"))


@dataclass(frozen=True, slots=True)
class Container:
    """One container. `snapshot` is what it sees, `parent` its image's file system (None for an empty image); both are
    to be read within `held`.

    `status` is the engine's word: created, running, paused, exited …; empty where no engine runs the containers.
    `mounted` is where the embedded store has it mounted. `freezer` is None where no engine could pause it.
    """

    store: str
    id: str
    name: str
    image: str
    image_name: str
    created: str
    snapshot: Snapshot
    parent: Snapshot | None
    mounted: str | None = None
    status: str = ""
    guard: Guard | None = field(default=None, compare=False, repr=False)
    hold: Hold | None = field(default=None, compare=False, repr=False)
    freezer: Freezer | None = field(default=None, compare=False, repr=False)

    @property
    def steady(self) -> bool:
        """Whether nothing is known to be writing to it now."""
        return self.mounted is None and self.status not in _RUNNING

    def held(self) -> AbstractContextManager[Pair]:
        """The container's file system and its image's, kept while the block is open."""
        return self.hold() if self.hold is not None else nullcontext((self.snapshot, self.parent))


@dataclass(frozen=True, slots=True)
class Damaged:
    """Something that a listing could not read: a whole store (`id` empty), or one image, container or layer of it."""

    store: str
    id: str
    names: tuple[str, ...]
    error: StreamerError


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Listing(Generic[T]):
    """What is there, and what is there but cannot be read: one broken image hides no other."""

    items: tuple[T, ...]
    damaged: tuple[Damaged, ...] = ()

    def __iter__(self) -> Iterator[T]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)


class Store(Protocol):
    """Finds things. Every method raises NotFound, Ambiguous (with candidates) or InvalidReference for a bad reference,
    StoreDamaged naming the file where the store's own files are wrong, and EngineUnreachable where only an engine could
    tell and does not answer. Listings hold what is damaged beside what is not."""

    @property
    def name(self) -> str: ...

    @property
    def location(self) -> str:
        """As `--store` takes it: `local:/var/lib/streamer`."""
        ...

    async def images(self) -> Listing[Image]: ...

    async def containers(self) -> Listing[Container]: ...

    async def layers(self) -> Listing[Layer]: ...

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
