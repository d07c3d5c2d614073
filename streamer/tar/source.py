"""Where an archive's bytes come from, the limits that hold for what comes in, and a cursor over both."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from streamer.errors import InvalidArchive, LimitExceeded

_BLOCK = 1 << 20
_AHEAD = 256 << 10


class Source(Protocol):
    """A blocking, sequential source of bytes."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes, at least one except at the end."""


class Headed:
    """A source whose first bytes were read already."""

    def __init__(self, head: bytes, source: Source) -> None:
        self._head = head
        self._source = source

    def read(self, size: int, /) -> bytes:
        if self._head:
            part, self._head = self._head[:size], self._head[size:]
            return part
        return self._source.read(size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a hostile archive may cost. Sizes in bytes."""

    entries: int = 10_000_000
    """Headers of any kind, extension headers included."""
    name: int = 1 << 20
    """A name or link target."""
    pax: int = 1 << 20
    """The records of one extended header (Go's and so Docker's limit)."""
    extents: int = 1 << 18
    """The map of one sparse file."""
    total: int = 1 << 43
    """The whole archive, uncompressed."""
    ratio: int = 1100
    """Uncompressed by compressed size; gzip reaches 1030 for zeros. Counts only after `ratio_from` bytes came out."""
    ratio_from: int = 256 << 20


class Cursor:
    """Exact reads from a source; tells `raw` every byte except those it is told to keep from it."""

    def __init__(self, source: Source, limits: Limits, raw: Callable[[bytes], None] | None) -> None:
        self._source = source
        self._limit = limits.total
        self._raw = raw
        self._ahead = b""
        self._at = 0
        self._came = 0

    def block(self) -> bytes:
        """The next 512 bytes."""
        at = self._at
        block = self._ahead[at : at + 512]
        if len(block) == 512:
            self._at = at + 512
            if self._raw is not None:
                self._raw(block)
            return block
        return self.take(512)

    def exhausted(self) -> bool:
        """Whether the source has come to its end."""
        if self._at == len(self._ahead):
            self._ahead, self._at = self._source.read(_AHEAD), 0
            self._count(self._ahead)
        return not self._ahead

    def take(self, size: int) -> bytes:
        """Exactly `size` bytes in memory: for headers, never for content."""
        parts = []
        while size:
            if self._at == len(self._ahead):
                self._ahead, self._at = self._read(_AHEAD), 0
            part = self._ahead[self._at : self._at + size]
            self._at += len(part)
            size -= len(part)
            parts.append(part)
        taken = parts[0] if len(parts) == 1 else b"".join(parts)
        if self._raw is not None and taken:
            self._raw(taken)
        return taken

    def some(self, size: int, *, to_raw: bool) -> bytes:
        """From 1 to `size` bytes of content, never more than 1 MiB."""
        if self._at == len(self._ahead):
            part = self._read(min(size, _BLOCK))
        else:
            part = self._ahead[self._at : self._at + min(size, _BLOCK)]
            self._at += len(part)
        if to_raw and self._raw is not None:
            self._raw(part)
        return part

    def rest(self) -> None:
        """Reads the source to its end: what follows an archive's end is not looked at, only told to `raw`."""
        for part in self._remaining():
            if self._raw is not None:
                self._raw(part)

    def _remaining(self) -> Iterator[bytes]:
        if self._at < len(self._ahead):
            yield self._ahead[self._at :]
        self._ahead, self._at = b"", 0
        while part := self._source.read(_AHEAD):
            self._count(part)
            yield part

    def _read(self, size: int) -> bytes:
        part = self._source.read(size)
        if not part:
            raise InvalidArchive(
                f"the archive is truncated: it stops after {self._came} bytes without the two zero blocks of its end"
            )
        self._count(part)
        return part

    def _count(self, part: bytes) -> None:
        self._came += len(part)
        if self._came > self._limit:
            raise LimitExceeded(
                f"the archive is longer than the allowed {self._limit} bytes", limit="total", value=self._limit
            )
