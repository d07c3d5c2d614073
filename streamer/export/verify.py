"""A stream whose size or digest is promised is checked before its last chunk leaves: a wrong one never ends cleanly."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from typing import TypeVar

from streamer.errors import SourceChanged
from streamer.export.closing import closing
from streamer.export.workers import Workers
from streamer.tar.region import Chunk

C = TypeVar("C", bytes, Chunk)

_ALONE = 4 << 20
"""Bytes that are hashed where they are made: a thread is worth its start for more."""
_AHEAD = 4
"""Chunks that wait for their hashing, at most."""


def verified(chunks: Iterator[C], what: str, size: int | None, digest: str | None) -> Iterator[C]:
    """The same chunks, one behind if anything is promised; SourceChanged in place of the last one if it was not kept.
    Regions are not held back; of a stream with a digest, or without a size, they are read.

    Closes `chunks` if that is a generator.
    """
    if size is None and digest is None:
        return chunks
    return _verified(chunks, what, size, digest)


def _verified(chunks: Iterator[C], what: str, size: int | None, digest: str | None) -> Iterator[C]:
    algorithm, _, expected = (digest or "sha256:").partition(":")
    hasher = hashlib.new(algorithm) if digest is not None else None
    waiting: deque[Future[None]] = deque()
    total = 0
    held: bytes | None = None
    with Workers(1) as workers, closing(chunks) as source:
        try:
            for chunk in source:
                total += len(chunk)
                if size is not None and total > size:
                    raise SourceChanged(f"cannot export {what}: it became longer than the {size} bytes announced")
                if held is not None:
                    yield held
                    held = None
                if not isinstance(chunk, bytes) and hasher is None and size is not None and total < size:
                    yield chunk  # a region, which is good until the next chunk is asked for; and not the last one
                    continue
                held = data = bytes(chunk)
                if hasher is not None and total <= _ALONE:
                    hasher.update(data)
                elif hasher is not None:  # beside the making of the next chunks, in order: there is one worker
                    waiting.append(workers.submit(hasher.update, data))
                    if len(waiting) > _AHEAD:
                        waiting.popleft().result()
            while waiting:
                waiting.popleft().result()
        finally:
            workers.settle(waiting)
    if size is not None and total != size:
        raise SourceChanged(f"cannot export {what}: it gave {total} bytes of the {size} announced")
    if hasher is not None and hasher.hexdigest() != expected:
        raise SourceChanged(f"cannot export {what}: its content no longer has the digest {digest}")
    if held is not None:
        yield held
