"""An archive's member as `apply` sees it: what it must look like, how its name is read, what may be too much of it."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from streamer.changeset.attributes import Attributes
from streamer.changeset.failures import quoted
from streamer.errors import Conflict, InvalidArchive, LimitExceeded, NotPermitted, StorageFull, StreamerError

REGULAR: Final = b"0"
LINK: Final = b"1"
SYMLINK: Final = b"2"
CHAR: Final = b"3"
BLOCK: Final = b"4"
DIRECTORY: Final = b"5"
FIFO: Final = b"6"


class MemberLike(Protocol):
    """The attributes of `tar.Entry`, which this package does not know."""

    @property
    def name(self) -> bytes: ...
    @property
    def type(self) -> bytes: ...
    @property
    def mode(self) -> int: ...
    @property
    def uid(self) -> int: ...
    @property
    def gid(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def mtime(self) -> int: ...
    @property
    def linkname(self) -> bytes: ...
    @property
    def devmajor(self) -> int: ...
    @property
    def devminor(self) -> int: ...
    @property
    def xattrs(self) -> Mapping[bytes, bytes]: ...
    @property
    def sparse(self) -> tuple[tuple[int, int], ...] | None: ...


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one archive may bring; None is no limit. More of it raises LimitExceeded."""

    entries: int | None = 4_000_000
    size: int | None = None
    """Bytes of all regular files together, holes included."""
    path: int = 1 << 20
    """Bytes of one name."""
    depth: int = 4096
    """Components of one name."""
    directories: int = 64 << 20
    """Bytes that the names of all directories take until their times are set."""


class Tally:
    """What an archive has brought so far, held against the limits."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._entries = 0
        self._size = 0

    def count(self, member: MemberLike) -> list[bytes]:
        """Counts a member in and gives the components of its name, as `clean`."""
        limits = self._limits
        self._entries += 1
        if limits.entries is not None and self._entries > limits.entries:
            raise LimitExceeded(f"the archive has more than {limits.entries} members", limit=limits.entries)
        if member.type == REGULAR:
            self._size += member.size
            if limits.size is not None and self._size > limits.size:
                raise LimitExceeded(f"the archive's files hold more than {limits.size} bytes", limit=limits.size)
        if len(member.name) > limits.path:
            raise LimitExceeded(f"a member's name is longer than {limits.path} bytes", limit=limits.path)
        components = clean(member.name)
        if len(components) > limits.depth:
            raise LimitExceeded(f"a member lies deeper than {limits.depth} directories", limit=limits.depth)
        return components


def clean(name: bytes) -> list[bytes]:
    """The components of a name as Go's filepath.Clean leaves them; a leading slash means the root of the tree.

    Raises InvalidArchive for a name that leads out of the tree or holds a NUL byte.
    """
    if b"\0" in name:
        raise InvalidArchive(f"the name {quoted(name)} holds a NUL byte")
    components: list[bytes] = []
    for component in name.split(b"/"):
        if component in (b"", b"."):
            continue
        if component == b"..":
            if not components:
                raise InvalidArchive(f"the name {quoted(name)} leads out of the tree")
            components.pop()
        else:
            components.append(component)
    return components


def attributes_of(member: MemberLike) -> Attributes:
    """What the member's file gets besides its content."""
    return Attributes(member.mode, member.uid, member.gid, member.mtime, member.xattrs)


def writing_failed(path: bytes, error: OSError) -> StreamerError:
    """The error to raise when the kernel refused to write something of an archive."""
    name = quoted(path)
    reason = os.strerror(error.errno) if error.errno else str(error)
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return StorageFull(f"no space left for {name}")
        case errno.EPERM | errno.EACCES:
            return NotPermitted(f"could not make {name} with its owner, mode or type: root is needed")
        case errno.ENAMETOOLONG | errno.EFBIG | errno.EINVAL | errno.EMLINK | errno.EOVERFLOW:
            return InvalidArchive(f"{name} cannot exist on this file system: {reason}")
        case errno.ENOENT | errno.EEXIST | errno.ENOTDIR | errno.EISDIR | errno.ELOOP | errno.ENOTEMPTY:
            return Conflict(f"could not write {name} ({reason}): something else writes into the same tree")
    return StreamerError(f"could not write {name}: {reason}")
