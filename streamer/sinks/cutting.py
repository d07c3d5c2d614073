"""A stream into parts of given lengths."""

from __future__ import annotations

from collections import deque

from streamer.export.exporter import ExportStream


class Cutter:
    """Takes parts out of an export's stream, in order; at most one chunk is held beyond the part that is taken."""

    def __init__(self, stream: ExportStream) -> None:
        self._stream = stream
        self._chunks: deque[bytes | memoryview] = deque()
        self._have = 0
        self._ended = False

    @property
    def exhausted(self) -> bool:
        """Whether the stream ended cleanly and all of it was taken."""
        return self._ended and not self._have

    async def take(self, size: int) -> bytes:
        """The next `size` bytes, fewer at the end. Afterwards `exhausted` is certain."""
        while self._have <= size and not self._ended:
            try:
                came = await anext(self._stream)
            except StopAsyncIteration:
                self._ended = True
            else:
                self._chunks.append(came)
                self._have += len(came)
        taken: list[bytes | memoryview] = []
        while size and self._chunks:
            chunk: bytes | memoryview = self._chunks.popleft()
            if len(chunk) > size:
                view = memoryview(chunk)
                self._chunks.appendleft(view[size:])
                chunk = view[:size]
            taken.append(chunk)
            size -= len(chunk)
            self._have -= len(chunk)
        return b"".join(taken)
