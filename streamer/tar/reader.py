"""A strict, streaming reader of tar archives that come from anywhere: one documented reading, else a refusal.

Read: V7, ustar, star's prefix, PAX (`x`, harmless `g`), GNU (`L`, `K`, base 256, sparse `S`), PAX sparse 0.0, 0.1,
1.0, contiguous files (`7`) and the old type NUL, where a slash at the end of the name means a directory. Refused,
because programs disagree about them: an archive without its two zero blocks (it may be cut), a lone zero block, two
extension headers of a kind for one member or PAX and GNU ones together, a name ending in a slash that is no
directory's, content behind a header that has none (the size of a hard link outside of POSIX headers is ignored, as
everywhere). What follows the end is passed to `raw` and not interpreted. Whether names are harmless is decided where
they are used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from streamer.errors import InvalidArchive, LimitExceeded, Unsupported, shown
from streamer.tar import pax, sparse
from streamer.tar.entry import BLOCK, CHAR, DIRECTORY, FIFO, LINK, REGULAR, SYMLINK, Entry
from streamer.tar.fields import Fields, parsed
from streamer.tar.source import Cursor, Limits, Source

__all__ = ["Limits", "Reader", "Source", "Written"]

_ZERO = bytes(512)
_DEFAULT = Limits()
_BODILESS = frozenset((SYMLINK, CHAR, BLOCK, DIRECTORY, FIFO))
_NO_SLASH = frozenset((REGULAR, CHAR, BLOCK, FIFO, b"S"))
_SECOND = 1_000_000_000


class Written(NamedTuple):
    """Fields of the current member exactly as its header has them, for TarSum: `Entry` has them normalised."""

    type: bytes
    mode: int
    size: int


class Reader:
    """Iterates over the members of an archive. Nothing is closed: the source stays its owner's.

    `Entry.name` and `linkname` are exactly as written (absolute, `..`, with or without the slash of a directory),
    `mode` is cut to 0o7777. Raises InvalidArchive (also for every truncation), LimitExceeded or Unsupported, and what
    the source raises. `raw` is told every byte of the archive in order except content of members that are not sparse.

    `terminated`: whether an archive must end in two zero blocks. Without them one that was cut between two members
    looks complete, so only a source that is verified in another way (by its digest) may do without.
    """

    def __init__(
        self,
        source: Source,
        *,
        limits: Limits = _DEFAULT,
        raw: Callable[[bytes], None] | None = None,
        terminated: bool = True,
    ) -> None:
        self._cursor = Cursor(source, limits, raw)
        self._terminated = terminated
        self._limits = limits
        self._headers = 0
        self._left = 0
        self._padding = 0
        self._content_to_raw = False
        self._ended = False
        self.written = Written(b"", 0, 0)

    def __iter__(self) -> Iterator[Entry]:
        return self

    def __next__(self) -> Entry:
        if self._ended:
            raise StopIteration
        while self._left:
            self._some()
        if self._padding:
            self._cursor.take(self._padding)
            self._padding = 0
        records: pax.Records | None = None
        long: dict[bytes, bytes] = {}
        while True:
            if not self._terminated and records is None and not long and self._cursor.exhausted():
                self._ended = True
                raise StopIteration
            block = self._cursor.block()
            if block == _ZERO:
                if records is not None or long:
                    raise InvalidArchive("the archive ends behind an extension header that belongs to no member")
                self._end()
                raise StopIteration
            fields = parsed(block)
            self._count()
            kind = fields.type
            if kind == b"x":
                if records is not None or long:
                    raise _ambiguous()
                records = pax.Records(self._body(fields, "pax", self._limits.pax))
            elif kind == b"g":
                if records is not None or long:
                    raise _ambiguous()
                pax.refuse_effective(pax.Records(self._body(fields, "pax", self._limits.pax)))
            elif kind in (b"L", b"K"):
                if records is not None or kind in long:
                    raise _ambiguous()
                long[kind] = self._long_name(fields)
            else:
                return self._member(block, fields, records, long)

    def content(self) -> Iterator[bytes]:
        """What is left of the current member's stored content, in blocks of at most 1 MiB; skipped where not read."""
        return self._content(self._headers)

    def _content(self, member: int) -> Iterator[bytes]:
        while member == self._headers:
            if not self._left:
                return
            yield self._some()
        raise ValueError("this content's archive was advanced to another member")

    def _some(self) -> bytes:
        part = self._cursor.some(self._left, to_raw=self._content_to_raw)
        self._left -= len(part)
        return part

    def _member(self, block: bytes, fields: Fields, records: pax.Records | None, long: dict[bytes, bytes]) -> Entry:
        entry = Entry(
            long.get(b"L", fields.name),
            fields.type,
            fields.mode & 0o7777,
            fields.uid,
            fields.gid,
            fields.size,
            fields.mtime * _SECOND,
            long.get(b"K", fields.linkname),
            fields.devmajor,
            fields.devminor,
        )
        if records is not None:
            pax.applied(entry, fields, records, self._limits)
        is_sparse = records is not None and records.sparse
        if entry.type == b"\0":
            entry.type = DIRECTORY if entry.name.endswith(b"/") else REGULAR
        elif entry.type == b"7":
            entry.type = REGULAR
        self.written = Written(fields.type, fields.mode, entry.size)
        if is_sparse and entry.type != REGULAR:
            raise _invalid(entry, "a sparse map, but is no regular file")
        if entry.type == b"S":
            if records is not None or not fields.gnu:
                raise _invalid(entry, "a sparse map of GNU's in a header that is not GNU's")
            sparse.old_gnu(entry, block, self._cursor, self._limits)
            entry.type, self._left = REGULAR, entry.stored
        elif records is not None and is_sparse:
            sparse.from_records(entry, records, self._cursor, self._limits)
            self._left = entry.stored
        else:
            self._left = self._size(entry, fields)
        _check(entry)
        self._content_to_raw = entry.sparse is not None
        self._padding = -self._left % 512
        return entry

    def _size(self, entry: Entry, fields: Fields) -> int:
        if entry.type == REGULAR:
            return entry.size
        if entry.type == LINK:
            if entry.size and (fields.posix or entry.size != fields.size):
                raise _invalid(entry, "content, but is a hard link")
            entry.size = 0
        elif entry.type in _BODILESS:
            if entry.size:
                raise _invalid(entry, "content, but is no regular file")
        else:
            raise Unsupported(f"{shown(entry.name)!r} has the unknown type {entry.type!r}", member=shown(entry.name))
        return 0

    def _body(self, fields: Fields, limit: str, value: int) -> bytes:
        """The content of an extension header."""
        if fields.size > value:
            raise LimitExceeded(
                f"an extension header is longer than the allowed {value} bytes", limit=limit, value=value
            )
        body = self._cursor.take(fields.size)
        self._cursor.take(-fields.size % 512)
        return body

    def _long_name(self, fields: Fields) -> bytes:
        name = self._body(fields, "name", self._limits.name + 1).rstrip(b"\0")
        if not name:
            raise InvalidArchive("a GNU long name is empty")
        return pax.checked_name(name, self._limits)

    def _count(self) -> None:
        self._headers += 1
        if self._headers > self._limits.entries:
            raise LimitExceeded(
                f"the archive has more than the allowed {self._limits.entries} headers",
                limit="entries",
                value=self._limits.entries,
            )

    def _end(self) -> None:
        lone = not self._terminated and self._cursor.exhausted()
        if not lone and self._cursor.block() != _ZERO:
            raise InvalidArchive("the archive has a lone zero block in its middle")
        self._ended = True
        self._cursor.rest()


def _check(entry: Entry) -> None:
    if not entry.name:
        raise InvalidArchive("a member of the archive has no name")
    if entry.type in _NO_SLASH and entry.name.endswith(b"/"):
        raise _invalid(entry, "a name that ends in a slash, but is no directory")
    if entry.type in (LINK, SYMLINK) and not entry.linkname:
        raise _invalid(entry, "no target, but is a link")
    if entry.uid > 0xFFFFFFFF or entry.gid > 0xFFFFFFFF:
        raise _invalid(entry, "an owner that is no 32-bit number")


def _ambiguous() -> InvalidArchive:
    return InvalidArchive("a member has extension headers of which programs disagree which one holds")


def _invalid(entry: Entry, what: str) -> InvalidArchive:
    member = shown(entry.name)
    return InvalidArchive(f"{member!r} has {what}", member=member)
