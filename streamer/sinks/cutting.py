"""A stream into parts of given lengths, and the memory that they lie in meanwhile."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import contextmanager

from streamer.export.exporter import ExportStream


class Pages:
    """Memory for parts, lent for as long as a part is on its way.

    Mapped by itself: in the allocator's heap, freed parts of many megabytes leave holes between what other threads
    allocate, and the process would keep twice as much. In huge pages, and lent again if `again`: making pages of 4 KiB
    anew for each part took as long as filling them. Not `again` where a storage keeps what it was given.
    """

    def __init__(self, *, again: bool) -> None:
        self._again = again
        self._free: list[mmap.mmap] = []

    @contextmanager
    def lent(self, size: int) -> Iterator[memoryview]:
        """Room for `size` bytes of anything."""
        pages = self._free.pop() if self._free and len(self._free[-1]) >= size else _mapped(size)
        yield memoryview(pages)[:size]
        if self._again:
            self._free.append(pages)


def _mapped(size: int) -> mmap.mmap:
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    try:
        pages.madvise(mmap.MADV_HUGEPAGE)
    except OSError:
        pass  # a kernel without them
    return pages


class Cutter:
    """Takes parts out of an export's stream, in order; at most one chunk is held beyond the part that is taken."""

    def __init__(self, stream: ExportStream) -> None:
        self._stream = stream
        self._rest = memoryview(b"")
        self._ended = False

    @property
    def exhausted(self) -> bool:
        """Whether the stream ended cleanly and all of it was taken."""
        return self._ended and not self._rest

    async def take(self, room: memoryview) -> memoryview:
        """The next bytes, written into `room`: as many as it holds, fewer at the end. Afterwards `exhausted` is
        certain."""
        filled = 0
        while filled < len(room) and (self._rest or await self._more()):
            piece = self._rest[: len(room) - filled]
            room[filled : filled + len(piece)] = piece
            filled += len(piece)
            self._rest = self._rest[len(piece) :]
        if not self._rest:
            await self._more()
        return room[:filled].toreadonly()

    async def _more(self) -> bool:
        """Fetches the next chunk; False at the end."""
        while not self._ended and not self._rest:
            try:
                self._rest = memoryview(await anext(self._stream))
            except StopAsyncIteration:
                self._ended = True
        return bool(self._rest)
