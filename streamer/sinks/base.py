"""What every storage can do, and the plain data that goes in and out.

An upload is made of parts, numbered from 1. Nothing is visible before `complete`; leaving an upload without it takes
everything back, unless its record says that another process will go on with it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol

from streamer.errors import Conflict, StorageFailed
from streamer.sinks.address import Address


class Gone(StorageFailed):
    """There is no such upload: completed, or taken back by somebody else."""


class Exists(Conflict):
    """There is an object, and it may not be replaced."""


@dataclass(frozen=True, slots=True)
class Part:
    """One part that a storage has: bytes, the storage's own ETag, and the checksum of what was sent, as
    `checksums.Checksum` writes it."""

    number: int
    size: int
    etag: str
    checksum: str


@dataclass(frozen=True, slots=True)
class Target:
    """An object to be made. `members` are its metadata: names in lower case, values in ASCII.

    `token` tells this export's object from any other at the same address; it is one of the members.
    """

    address: Address
    token: str
    media_type: str
    members: Mapping[str, str] = field(default_factory=dict)
    replace: bool = True
    """Whether an object that is there may be replaced."""


@dataclass(frozen=True, slots=True)
class Begun:
    """An upload that a process before this one began: the storage's ID for it, and the parts that it recorded."""

    upload: str
    parts: Mapping[int, Part] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Layout:
    """What a storage wants of parts: at least `smallest` bytes (except the last), at most `largest`, at most `most` of
    them."""

    smallest: int = 1
    largest: int = 1 << 40
    most: int = 1_000_000_000


class Record:
    """Remembers an upload beyond the life of a process. This one forgets: for exports that nobody resumes."""

    suspended: bool = False
    """Whether an upload that is left unfinished stays for another process."""

    async def asking(self) -> None:
        """The storage is asked for an upload: from now on there may be one, whose ID never arrives if this process
        dies before `begun`."""

    async def begun(self, upload: str) -> None:
        """An upload exists under this ID."""

    async def stored(self, part: Part) -> None:
        """The storage has a part."""

    async def completing(self, size: int, digest: str) -> None:
        """Every part is there; the object may appear from now on. `digest` is `sha256:…` of the whole."""

    async def ended(self) -> None:
        """Nothing is left of the upload: it was completed or taken back. Where this is not said, `Storage.sweep` is to
        take back what may be left."""


class Upload(Protocol):
    """One object on its way."""

    async def put(self, number: int, data: memoryview, *, last: bool) -> None:
        """One part, of which `data` must not change any more. Back once the storage has it, or (where parts must come
        in order) will surely be given it. Parts that are there already are not sent again."""
        ...

    async def complete(self, size: int, digest: str) -> str:
        """The object appears, and is the whole; its ETag, empty where there is none. Conflict if one is there and may
        not be replaced."""
        ...


class Storage(Protocol):
    """One place that keeps objects. Errors: NotFound (no such bucket), NotPermitted, Conflict, StorageFull,
    StorageUnreachable, StorageFailed."""

    layout: Layout
    ordered: bool
    """Whether parts must be put one after the other in their order."""

    def open(
        self, target: Target, record: Record, *, step: int, concurrency: int, begun: Begun | None = None
    ) -> AbstractAsyncContextManager[Upload]:
        """An upload in parts of about `step` bytes, `concurrency` at a time. With `begun` it goes on with that one."""
        ...

    async def refuse_existing(self, target: Target) -> None:
        """Conflict if there is an object that may not be replaced: before anything is read for it."""
        ...

    async def found(self, target: Target, size: int, digest: str) -> str | None:
        """The ETag (empty where there is none) of this very export's object, which has that length and digest; None if
        it is not there, or nobody may look."""
        ...

    async def sweep(
        self, target: Target, *, upload: str | None = None, since: float | None = None, keep: Collection[str] = ()
    ) -> None:
        """Takes back what a dead process may have left of this export: the upload with that ID and, where the storage
        can list them, one that it asked for at `since` (seconds since the epoch) and whose ID never arrived. That is
        every upload to the same address that began then, or so soon after that the same call may have made it, but
        not those whose IDs are in `keep`."""
        ...
