"""The directories of a store, and opening files in them: by checked relative names, never through a symbolic link."""

from __future__ import annotations

import base64
import errno
import os
import re
import stat
from dataclasses import dataclass

from streamer.changeset.descriptor import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, openat2
from streamer.errors import NotPermitted, SourceFailed, StoreDamaged, StreamerError

READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_ROOT = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,254}")
_PLAIN = re.compile(r"[a-z0-9.]+")


def is_id(text: object) -> bool:
    """Whether a record's ID may become part of a path. IDs are 64 hex digits where engines make them up."""
    return isinstance(text, str) and _ID.fullmatch(text) is not None


def big_data(key: str) -> str:
    """The name of the file that keeps a named document of an image (containers/storage, `makeBigDataBaseName`)."""
    if _PLAIN.fullmatch(key) and key not in (".", ".."):
        return key
    return "=" + base64.b64encode(key.encode()).decode("ascii")


@dataclass(frozen=True, slots=True)
class Place:
    """One root directory in the layout of containers/storage: a graph root, image store, run root.

    `label` says which one in messages, as the end of a file's name; empty for the graph root.
    """

    store: str
    path: bytes
    driver: str
    label: str = ""

    def shown(self, relative: str) -> str:
        """A file for messages: relative to the root, and which root if there are several."""
        return f"{relative}{self.label} of store {self.store}"

    def list(self, kind: str, *, volatile: bool = False) -> str:
        """The file that lists images, layers or containers."""
        return f"{self.driver}-{kind}/{'volatile-' if volatile else ''}{kind}.json"

    def lock(self, kind: str) -> str:
        return f"{self.driver}-{kind}/{kind}.lock"

    def tree(self, layer: str) -> str:
        """What belongs to a layer: for `vfs` its file system itself."""
        return f"vfs/dir/{layer}" if self.driver == "vfs" else f"{self.driver}/{layer}"

    def split(self, layer: str) -> str:
        return f"{self.driver}-layers/{layer}.tar-split.gz"

    def document(self, image: str, key: str) -> str:
        return f"{self.driver}-images/{image}/{big_data(key)}"

    def absolute(self, relative: str) -> bytes:
        return self.path + b"/" + os.fsencode(relative)

    def open(self, relative: str, flags: int = READ) -> int:
        """A descriptor, the caller's to close. Raises OSError: ELOOP where a symbolic link lies on the way."""
        root = os.open(self.path, _ROOT)
        try:
            # An engine mounts its driver's directory on itself: other mounts are expected here.
            return openat2(root, os.fsencode(relative), flags, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)
        except OSError as error:
            if error.errno != errno.ENOSYS:
                raise
            return os.open(os.fsencode(relative), flags, dir_fd=root)
        finally:
            os.close(root)

    def read(self, relative: str, limit: int) -> bytes:
        """A whole file. FileNotFoundError; StoreDamaged, NotPermitted, SourceFailed naming it."""
        try:
            fd = self.open(relative)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise self.failure(relative, error) from error
        try:
            return self.content(fd, relative, limit)
        finally:
            os.close(fd)

    def content(self, fd: int, relative: str, limit: int) -> bytes:
        """The whole content of an open file. StoreDamaged if it is no regular file or longer than `limit`."""
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise StoreDamaged(f"{self.shown(relative)} is not a regular file")
        try:
            parts = []
            left = limit + 1
            while left and (part := os.read(fd, min(left, 1 << 20))):
                parts.append(part)
                left -= len(part)
        except OSError as error:
            raise self.failure(relative, error) from error
        if not left:
            raise StoreDamaged(f"{self.shown(relative)} is larger than {limit} bytes")
        return b"".join(parts)

    def failure(self, relative: str, error: OSError) -> StreamerError:
        """What it means that a file could not be opened or read."""
        name = self.shown(relative)
        match error.errno:
            case errno.ENOENT:
                return StoreDamaged(f"{name} is missing")
            case errno.ELOOP | errno.ENOTDIR | errno.EXDEV | errno.ENXIO:
                return StoreDamaged(f"{name} is not what it should be: {os.strerror(error.errno)}")
            case errno.EACCES | errno.EPERM:
                return NotPermitted(f"{name} may not be read by this user: run as its owner or as root")
        return SourceFailed(f"{name} cannot be read: {os.strerror(error.errno or 0)}")
