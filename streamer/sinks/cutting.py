"""A stream into parts of given lengths."""

from __future__ import annotations

import mmap

from streamer.export.exporter import ExportStream


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

    async def take(self, size: int) -> memoryview:
        """The next `size` bytes, fewer at the end. Afterwards `exhausted` is certain."""
        # Mapped by itself: so it goes back to the system when it was sent. In the allocator's heap, freed parts of many
        # megabytes leave holes between what other threads allocate, and the process would keep twice as much.
        part = memoryview(mmap.mmap(-1, size))
        filled = 0
        while filled < size and (self._rest or await self._more()):
            piece = self._rest[: size - filled]
            part[filled : filled + len(piece)] = piece
            filled += len(piece)
            self._rest = self._rest[len(piece) :]
        if not self._rest:
            await self._more()
        return part[:filled].toreadonly()

    async def _more(self) -> bool:
        """Fetches the next chunk; False at the end."""
        while not self._ended and not self._rest:
            try:
                self._rest = memoryview(await anext(self._stream))
            except StopAsyncIteration:
                self._ended = True
        return bool(self._rest)
