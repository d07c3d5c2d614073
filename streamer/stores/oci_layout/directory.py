"""An OCI image layout's directory: its files by descriptor, and its small documents, each compared with its digest.

Nothing in it is reached through a symbolic link: a layout made by somebody else must not lead to the host's own files.
Every name that is opened is one of three: `oci-layout`, `index.json`, `blobs/<algorithm>/<hex digits>`.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from streamer.changeset import descriptor as below
from streamer.errors import InvalidArchive, NotPermitted, SourceFailed, StoreDamaged, StreamerError, Unsupported
from streamer.oci import digest as digests
from streamer.oci import layout, media
from streamer.oci.descriptor import Descriptor
from streamer.stores import blobs
from streamer.stores.base import Blob, Guard


class Missing(StoreDamaged):
    """A file that the layout names and does not have."""


@contextmanager
def told() -> Iterator[None]:
    """What reading a document complains of is damage of the store: StoreDamaged in place of InvalidArchive."""
    try:
        yield
    except InvalidArchive as error:
        raise StoreDamaged(str(error), file=error.details.get("member")) from error


class Directory:
    """The layout at `path`; nothing of it is kept open."""

    def __init__(self, path: bytes) -> None:
        self.path = os.path.abspath(path)

    def check(self) -> None:
        """StoreDamaged where this is no layout, Unsupported where its version is not known."""
        with told():
            version = layout.version(self._data(layout.MARK, layout.MAX_MARK))
        if not version.startswith("1."):
            raise Unsupported(f"the layout has the version {version[:20]!r} in its oci-layout file, not 1.x")

    def index(self) -> bytes:
        return self._data(layout.INDEX, media.MAX_MANIFEST)

    def index_identity(self) -> tuple[int, ...] | None:
        """Changes when `index.json` does; None where it is not there."""
        try:
            status = os.lstat(os.path.join(self.path, layout.INDEX.encode()))
        except OSError:
            return None
        return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns

    def document(self, descriptor: Descriptor, limit: int) -> bytes:
        """A manifest, an index or a configuration; StoreDamaged unless it is what its descriptor says."""
        path = layout.blob(descriptor.digest)
        data = self._data(path, limit)
        if len(data) != descriptor.size:
            raise StoreDamaged(f"{path} has {len(data)} bytes where {descriptor.size} are said", file=path)
        algorithm = digests.algorithm(descriptor.digest)
        if hashlib.new(algorithm, data).hexdigest() != digests.encoded(descriptor.digest):
            raise StoreDamaged(f"{path} does not have the digest that is its name", file=path)
        return data

    def has(self, digest: str) -> bool:
        """Whether there is anything under the digest's name."""
        try:
            os.close(self._open(layout.blob(digest), below.LOOKUP))
        except OSError:
            return False
        return True

    def blob(self, descriptor: Descriptor, what: str) -> tuple[Blob, Guard]:
        """A layer's blob and its end check; StoreDamaged or NotPermitted where it cannot be read even now."""
        path = layout.blob(descriptor.digest)
        # Before the look at it: what is replaced in between is another file for the check.
        guard = blobs.file_guard(os.path.join(self.path, path.encode()), what)
        fd = self._opened(path)
        try:
            size = os.fstat(fd).st_size
        finally:
            os.close(fd)
        if size != descriptor.size:
            raise StoreDamaged(f"{path} has {size} bytes where {descriptor.size} are said", file=path)
        return blobs.opened_blob(partial(self._open, path, blobs.READ), descriptor, what), guard

    def _data(self, path: str, limit: int) -> bytes:
        fd = self._opened(path)
        try:
            parts = []
            left = limit + 1
            while left and (part := os.read(fd, left)):
                parts.append(part)
                left -= len(part)
        except OSError as error:
            raise SourceFailed(f"could not read {path}: {os.strerror(error.errno or 0)}") from error
        finally:
            os.close(fd)
        if not left:
            raise StoreDamaged(f"{path} is larger than {limit} bytes", file=path)
        return b"".join(parts)

    def _opened(self, path: str) -> int:
        """A regular file's descriptor, the caller's to close."""
        try:
            fd = self._open(path, blobs.READ)
        except FileNotFoundError as error:
            raise Missing(f"{path} is missing", file=path) from error
        except PermissionError as error:
            raise NotPermitted(f"{path} may not be read by this user", file=path) from error
        except OSError as error:  # ELOOP, ENOTDIR: a symbolic link; ENXIO: a socket
            raise _not_regular(path, error) from error
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise _not_regular(path)
        return fd

    def _open(self, path: str, flags: int) -> int:
        root = os.open(self.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return below.open_below(root, path.encode(), flags)
        finally:
            os.close(root)


def _not_regular(path: str, error: OSError | None = None) -> StreamerError:
    why = f" ({os.strerror(error.errno or 0)})" if error is not None else ""
    return StoreDamaged(f"{path} is not a regular file{why}", file=path)
