"""Bytes of an archive that lie in an open file and need not be read to be sent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

LEAST: Final = 256 << 10
"""Bytes below which a region is not worth it: they are read."""


@dataclass(frozen=True, slots=True)
class Region:
    """`size` bytes of a file from `offset` on, which whoever has a socket lets the kernel send from its cache.

    For files that nobody writes to any more: what the kernel sends by itself is sent as it is then, not as it was
    looked at. Valid until the iterator that gave it is advanced, which owns the descriptor. `bytes(region)` reads it,
    and so does every slice. Whoever sends it otherwise calls `settled` afterwards. Both raise SourceChanged if the file
    is not what it was, and what reading raises.
    """

    descriptor: int
    offset: int
    size: int
    read: Callable[[int, int], bytes]
    """`read(size, offset)` reads at least one byte."""
    settled: Callable[[], None]

    def __len__(self) -> int:
        return self.size

    def __bytes__(self) -> bytes:
        data = self.read(self.size, self.offset)
        while len(data) < self.size:
            data += self.read(self.size - len(data), self.offset + len(data))
        self.settled()
        return data

    def __getitem__(self, wanted: slice) -> bytes:
        return bytes(self)[wanted]


Chunk: TypeAlias = bytes | Region
"""A piece of a stream on its way to where it is sent or stored."""
