"""Byte sources on their way in: counted, hashed, watched, read twice. All synchronous, all bounded."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from typing import Protocol

from streamer.errors import DigestMismatch, InvalidArchive, SourceFailed
from streamer.oci import digest as digests

BLOCK = 1 << 20


class Source(Protocol):
    """As `tar.reader.Source`: up to `n` bytes, `b""` at the end and only there."""

    def read(self, n: int, /) -> bytes: ...


class Cancelled(Exception):
    """The import was cancelled: raised in its thread at the next read, so that its `with` blocks are left."""


class Watch:
    """Tells how many bytes came, over all sources it wraps, and ends their reading when the import is cancelled."""

    def __init__(self, stop: threading.Event, progress: Callable[[int], None] | None) -> None:
        self._stop, self._progress = stop, progress
        self.count = 0

    def wrap(self, source: Source) -> Source:
        return _Watched(source, self)

    def passed(self, count: int) -> None:
        self.count += count
        if self._progress is not None and count:
            self._progress(self.count)
        if self._stop.is_set():
            raise Cancelled


class _Watched:
    def __init__(self, source: Source, watch: Watch) -> None:
        self._source, self._watch = source, watch

    def read(self, n: int) -> bytes:
        try:
            data = self._source.read(n)
        except OSError as error:  # told apart here from what goes wrong in the store
            raise SourceFailed(f"the archive could not be read: {os.strerror(error.errno or 0)}") from error
        self._watch.passed(len(data))
        return data


class Digesting:
    """Hashes and counts what passes; `finish` compares with what was promised."""

    def __init__(self, source: Source, algorithm: str = "sha256") -> None:
        self._source, self._algorithm = source, algorithm
        self._hash = hashlib.new(algorithm)
        self.count = 0

    def read(self, n: int) -> bytes:
        data = self._source.read(n)
        self._hash.update(data)
        self.count += len(data)
        return data

    @property
    def digest(self) -> str:
        return f"{self._algorithm}:{self._hash.hexdigest()}"

    def finish(self, what: str, digest: str, size: int | None = None) -> None:
        """Reads the rest; DigestMismatch or InvalidArchive naming `what` unless the whole is what was promised."""
        drain(self)
        if size is not None and self.count != size:
            raise InvalidArchive(f"{what} has {self.count} bytes where {size} were promised", member=what)
        if self.digest != digest:
            raise DigestMismatch(
                f"{what} has the digest {self.digest} where {digest} was promised", member=what, digest=self.digest
            )


class Replay:
    """A source whose beginning can be read twice: `rewind` starts again with what was read so far.

    Only meant for the few blocks that decide what kind of archive comes: after `rewind` nothing is remembered.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._seen: list[bytes] | None = []
        self._again: list[bytes] = []

    def read(self, n: int) -> bytes:
        if self._again:
            block = self._again.pop()
            if len(block) > n:
                self._again.append(block[n:])
            return block[:n]
        data = self._source.read(n)
        if self._seen is not None:
            self._seen.append(data)
        return data

    def rewind(self) -> None:
        assert self._seen is not None
        self._again = [block for block in reversed(self._seen) if block]
        self._seen = None


class File:
    """A file opened by descriptor as a source; the caller closes the descriptor."""

    def __init__(self, fd: int, what: str) -> None:
        self._fd, self._what = fd, what

    def read(self, n: int) -> bytes:
        try:
            return os.read(self._fd, n)
        except OSError as error:
            raise SourceFailed(f"{self._what} could not be read: {os.strerror(error.errno or 0)}") from error


def drain(source: Source) -> None:
    while source.read(BLOCK):
        pass


def verified(data: bytes, what: str, digest: str, size: int | None = None) -> bytes:
    """The document itself if it is what a descriptor promised."""
    if size is not None and len(data) != size:
        raise InvalidArchive(f"{what} has {len(data)} bytes where {size} were promised", member=what)
    found = f"{digests.algorithm(digest)}:{hashlib.new(digests.algorithm(digest), data).hexdigest()}"
    if found != digest:
        raise DigestMismatch(f"{what} has the digest {found} where {digest} was promised", member=what, digest=found)
    return data
