"""A stream whose size or digest is promised is checked before its last chunk leaves: a wrong one never ends cleanly."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from streamer.errors import SourceChanged
from streamer.export.closing import closing


def verified(chunks: Iterator[bytes], what: str, size: int | None, digest: str | None) -> Iterator[bytes]:
    """The same chunks, one behind if anything is promised; SourceChanged in place of the last one if it was not kept.

    Closes `chunks` if that is a generator.
    """
    if size is None and digest is None:
        return chunks
    return _verified(chunks, what, size, digest)


def _verified(chunks: Iterator[bytes], what: str, size: int | None, digest: str | None) -> Iterator[bytes]:
    algorithm, _, expected = (digest or "sha256:").partition(":")
    hasher = hashlib.new(algorithm) if digest is not None else None
    total = 0
    held: bytes | None = None
    with closing(chunks) as source:
        for chunk in source:
            total += len(chunk)
            if size is not None and total > size:
                raise SourceChanged(f"cannot export {what}: it became longer than the {size} bytes announced")
            if hasher is not None:
                hasher.update(chunk)
            if held is not None:
                yield held
            held = chunk
    if size is not None and total != size:
        raise SourceChanged(f"cannot export {what}: it gave {total} bytes of the {size} announced")
    if hasher is not None and hasher.hexdigest() != expected:
        raise SourceChanged(f"cannot export {what}: its content no longer has the digest {digest}")
    if held is not None:
        yield held
