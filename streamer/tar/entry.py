"""One archive member as a value: what a header says, with names as bytes and times in nanoseconds."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeAlias

REGULAR = b"0"
LINK = b"1"
SYMLINK = b"2"
CHAR = b"3"
BLOCK = b"4"
DIRECTORY = b"5"
FIFO = b"6"

_NO_XATTRS: Mapping[bytes, bytes] = MappingProxyType({})


class Profile(enum.StrEnum):
    """Which of two header dialects to write.

    `DOCKER` is byte-identical to current go-archive (whole seconds, `security.capability` only, no sparse files);
    `FULL` is for backup and forensics (PAX with nanoseconds, every xattr, GNU sparse 1.0).
    """

    DOCKER = "docker"
    FULL = "full"


@dataclass(slots=True)
class Entry:
    """One member's header.

    `name` has no leading slash and ends in `/` exactly for directories; `mode` holds permission and set-id bits only
    (0o7777); `mtime` is nanoseconds since the epoch; `size` is the file's size (for a sparse file the expanded one),
    0 for everything that is not a regular file; `linkname` is the target of a `LINK` (an earlier name) or `SYMLINK`
    (verbatim). `xattrs` maps whole names (`security.capability`) to values. `sparse`, if not None, lists the (offset,
    length) extents that hold data, ascending, never overlapping; the stored content is just these, concatenated.
    """

    name: bytes
    type: bytes = REGULAR
    mode: int = 0
    uid: int = 0
    gid: int = 0
    size: int = 0
    mtime: int = 0
    linkname: bytes = b""
    devmajor: int = 0
    devminor: int = 0
    xattrs: Mapping[bytes, bytes] = field(default_factory=lambda: _NO_XATTRS)
    sparse: tuple[tuple[int, int], ...] | None = None

    @property
    def stored(self) -> int:
        """Bytes of content that follow the header(s), padding and sparse map not counted."""
        return self.size if self.sparse is None else sum(length for _, length in self.sparse)


Content: TypeAlias = "bytes | Iterator[bytes] | None"
"""The stored content of a member: all of it, or blocks in order (the consumer closes a generator), or none."""

Member: TypeAlias = tuple[Entry, Content]
