"""Small pieces of a stream to large chunks."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing

LEAST = 256 << 10
"""Bytes of a chunk that was put together; what is as large as this by itself is passed through as the same object."""


def gathered(pieces: Generator[bytes, None, None]) -> Generator[bytes, None, None]:
    """The same bytes in chunks: small pieces joined to 256 KiB and more, except in front of a large one and at the end.

    Closes `pieces`.
    """
    held: list[bytes] = []
    size = 0
    with closing(pieces):
        for piece in pieces:
            if len(piece) >= LEAST:
                if held:
                    yield b"".join(held)
                    held, size = [], 0
                yield piece
                continue
            held.append(piece)
            size += len(piece)
            if size >= LEAST:
                yield b"".join(held)
                held, size = [], 0
    if size:
        yield b"".join(held)
