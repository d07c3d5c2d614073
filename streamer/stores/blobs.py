"""Layers as they came from a registry: blobs in files, read as they are, or decompressed into the layer's tar.

`what` names the layer in messages: `layer 1f0c2a… of store images`.
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from functools import partial
from typing import cast

from streamer.errors import (
    InvalidArchive,
    LimitExceeded,
    NotPermitted,
    SourceChanged,
    SourceFailed,
    StoreDamaged,
)
from streamer.oci import digest as digests
from streamer.oci.descriptor import Descriptor
from streamer.stores.base import Blob, Guard, Reading
from streamer.tar.chunks import gathered
from streamer.tar.compression import decompressed
from streamer.tar.source import Limits

BLOCK = 1 << 20
LIMITS = Limits(ratio_from=16 << 30)
"""What decompressing a blob may cost. Nothing of it is stored and its reader may leave at any time, and zstd really
makes gigabytes of zeros out of kilobytes: what is told apart here is the layer that would never end."""

READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_GONE = "its store may have removed it"


def file_blob(path: bytes, descriptor: Descriptor, what: str) -> Blob:
    """The file at `path` as a blob; never through a symbolic link (as its last component)."""
    return opened_blob(lambda: os.open(path, READ), descriptor, what)


def opened_blob(opened: Callable[[], int], descriptor: Descriptor, what: str) -> Blob:
    """A blob read from the descriptor that `opened` gives (OSError if it cannot), which is closed with the reading.

    Reading raises SourceChanged where the file is gone or ends early, StoreDamaged where it is no regular file of the
    size that its descriptor has, NotPermitted, SourceFailed where the kernel fails to read.
    """
    return Blob(descriptor, ended(partial(_read, opened, descriptor, what), descriptor, what))


def ended(read: Reading, descriptor: Descriptor, what: str) -> Reading:
    """The same reading, but a span that ends where the blob does and does not begin there has read all of it, and
    compared its digest before the last block is given (SourceChanged): parts which add up to a whole cannot all end
    well if the blob is another. Who reads the whole compares it himself."""
    return partial(_ended, read, descriptor, what)


def _ended(
    read: Reading, descriptor: Descriptor, what: str, start: int = 0, stop: int | None = None
) -> Iterator[bytes]:
    if not start or (stop is not None and stop < descriptor.size):
        yield from read(start, stop)
        return
    hasher = hashlib.new(digests.algorithm(digests.parse(descriptor.digest)))
    held, at = b"", 0
    with closing(cast("Generator[bytes]", read())) as blocks:
        for block in blocks:
            hasher.update(block)
            before, at = at, at + len(block)
            if at > start:
                if held:
                    yield held
                held = block[max(0, start - before) :]
    if hasher.hexdigest() != digests.encoded(descriptor.digest):
        raise SourceChanged(f"the blob of {what} no longer has its digest {descriptor.digest}")
    if held:
        yield held


def _read(
    opened: Callable[[], int], descriptor: Descriptor, what: str, start: int = 0, stop: int | None = None
) -> Iterator[bytes]:
    fd = _open(opened, descriptor, what)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise StoreDamaged(f"the blob {descriptor.digest} of {what} is not a regular file")
        if status.st_size != descriptor.size:
            raise StoreDamaged(
                f"the blob {descriptor.digest} of {what} has {status.st_size} bytes where {descriptor.size} are said"
            )
        at, end = start, descriptor.size if stop is None else min(stop, descriptor.size)
        while at < end:
            try:
                block = os.pread(fd, min(BLOCK, end - at), at)
            except OSError as error:
                reason = os.strerror(error.errno or 0)
                raise SourceFailed(f"could not read the blob {descriptor.digest} of {what}: {reason}") from error
            if not block:
                raise SourceChanged(f"the blob {descriptor.digest} of {what} became shorter while it was read")
            at += len(block)
            yield block
    finally:
        os.close(fd)


def _open(opened: Callable[[], int], descriptor: Descriptor, what: str) -> int:
    try:
        return opened()
    except FileNotFoundError as error:
        raise SourceChanged(f"the blob {descriptor.digest} of {what} is gone; {_GONE}") from error
    except PermissionError as error:
        raise NotPermitted(f"the blob {descriptor.digest} of {what} may not be read by this user") from error
    except OSError as error:  # ELOOP, ENOTDIR: a symbolic link; ENXIO: a socket
        reason = os.strerror(error.errno or 0)
        raise StoreDamaged(f"the blob {descriptor.digest} of {what} cannot be opened: {reason}") from error


def tar_size(descriptor: Descriptor, diff_id: str) -> int | None:
    """The length of the layer's tar where its blob tells it: where it is that tar. Media types are not asked: there are
    compressed blobs under those of uncompressed ones."""
    return descriptor.size if descriptor.digest == diff_id else None


def assemble(blob: Blob, diff_id: str, what: str, limits: Limits = LIMITS) -> Reading:
    """`Layer.assemble` of a layer that is kept as a blob: as the tar that it is, or in any compression.

    Compressed ones are compared with their descriptor where they are read to the end, and a span costs the
    decompressing of all that lies before it. StoreDamaged where the blob differs or cannot be decompressed,
    LimitExceeded for more than `limits`, and what reading the blob raises.
    """
    if blob.descriptor.digest == diff_id:
        return blob.read
    return partial(_assembled, blob, what, limits)


def _assembled(blob: Blob, what: str, limits: Limits, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
    return gathered(_decompressed(blob, what, limits, start, sys.maxsize if stop is None else stop))


def _decompressed(blob: Blob, what: str, limits: Limits, start: int, stop: int) -> Generator[bytes, None, None]:
    at = 0
    with closing(_Compared(blob, what)) as compared:
        try:
            _, plain = decompressed(compared, limits=limits)
            while at < stop and (part := plain.read(BLOCK)):
                before, at = at, at + len(part)
                if at > start:
                    yield part[max(start - before, 0) : stop - before]
        except InvalidArchive as error:
            raise StoreDamaged(
                f"the blob {blob.descriptor.digest} of {what} cannot be decompressed: {error}"
            ) from error
        except LimitExceeded as error:
            raise LimitExceeded(f"cannot decompress {what}: {error}", **error.details) from error


class _Compared:
    """A blob as a source, which at its end is what its descriptor says or raises."""

    def __init__(self, blob: Blob, what: str) -> None:
        self._descriptor = blob.descriptor
        self._what = what
        self._blocks = blob.read()
        self._hash = hashlib.new(digests.algorithm(digests.parse(blob.descriptor.digest)))
        self._block = memoryview(b"")
        self._count = 0

    def read(self, size: int, /) -> bytes:
        if not self._block:
            self._block = memoryview(self._next())
        part, self._block = self._block[:size], self._block[size:]
        return bytes(part)

    def _next(self) -> bytes:
        # An empty block is not the end, and must not be taken for it.
        block = next((each for each in self._blocks if each), b"")
        self._count += len(block)
        self._hash.update(block)
        expected = self._descriptor.size
        if self._count > expected or (not block and self._count != expected):
            more = "more" if self._count > expected else f"{self._count}"
            raise StoreDamaged(f"the blob {self._descriptor.digest} of {self._what} gave {more} of {expected} bytes")
        if not block and self._hash.hexdigest() != digests.encoded(self._descriptor.digest):
            raise StoreDamaged(f"the blob of {self._what} no longer has its digest {self._descriptor.digest}")
        return block

    def close(self) -> None:
        close = getattr(self._blocks, "close", None)
        if close is not None:
            close()


def file_guard(path: bytes, what: str) -> Guard:
    """The end check of a blob in a file: SourceChanged unless it is still the file that is there now, unchanged."""
    identity = _identity(path)

    def check() -> None:
        if identity is None or _identity(path) != identity:
            raise SourceChanged(f"the blob of {what} was removed from its store or replaced meanwhile")

    return check


def _identity(path: bytes) -> tuple[int, ...] | None:
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
