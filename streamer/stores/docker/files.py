"""The small files of a data-root, named in errors as the store's own, never by a path of the host."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable
from typing import Any, TypeVar

from streamer.changeset import descriptor
from streamer.errors import InvalidArchive, NotPermitted, StoreDamaged, StreamerError
from streamer.oci import digest as digests
from streamer.oci import document

MAX_DOCUMENT = 32 << 20
_MAX_WORD = 8192
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_ROOT = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_IDENTITY = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]{0,127}")
_GONE = (errno.ENOENT, errno.ENOTDIR)

T = TypeVar("T")


class Files:
    """Reads below one directory, never through a symbolic link. Every method raises StoreDamaged, or NotPermitted where
    this user may not read."""

    def __init__(self, path: bytes) -> None:
        self.path = path

    def at(self, name: str) -> bytes:
        """The absolute path of something in the store."""
        return self.path + b"/" + os.fsencode(name)

    def data(self, name: str, limit: int = MAX_DOCUMENT) -> bytes | None:
        """A whole file; None if there is none."""
        try:
            fd = self._open(name, _READ)
        except OSError as error:
            if error.errno in _GONE:
                return None
            raise failed(name, error) from error
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise StoreDamaged(f"{name} is not a regular file")
            if status.st_size > limit:
                raise StoreDamaged(f"{name} is larger than {limit} bytes")
            data = bytearray()
            while len(data) <= limit and (block := os.read(fd, max(status.st_size - len(data), 0) + 1)):
                data += block
        except OSError as error:
            raise failed(name, error) from error
        finally:
            os.close(fd)
        if len(data) > limit:
            raise StoreDamaged(f"{name} is larger than {limit} bytes")
        return bytes(data)

    def word(self, name: str) -> str | None:
        """What a file of one short line says; None if there is none."""
        data = self.data(name, _MAX_WORD)
        if data is None:
            return None
        try:
            return data.decode("ascii").strip()
        except UnicodeDecodeError:
            raise StoreDamaged(f"{name} holds something else than one line of text") from None

    def digest(self, name: str) -> str | None:
        """The digest in a file of one line; None if there is no such file."""
        word = self.word(name)
        if word is not None and (not digests.is_digest(word) or digests.algorithm(word) != "sha256"):
            raise StoreDamaged(f"{name} does not hold a digest")
        return word

    def identity(self, name: str) -> str | None:
        """The ID in a file of one line, fit to be part of a path; None if there is no such file."""
        word = self.word(name)
        if word is not None and _IDENTITY.fullmatch(word) is None:
            raise StoreDamaged(f"{name} does not hold an ID")
        return word

    def mapping(self, name: str) -> dict[str, Any] | None:
        """A JSON object; None if there is no such file."""
        data = self.data(name)
        return (
            None if data is None else parsed(lambda: document.mapping(document.loads(data, name, MAX_DOCUMENT), name))
        )

    def names(self, name: str) -> list[str]:
        """What is in a directory, none if it is not there."""
        try:
            fd = self._open(name, descriptor.DIRECTORY)
        except OSError as error:
            if error.errno == errno.ENOENT:
                return []
            raise failed(name, error) from error
        try:
            return os.listdir(fd)
        except OSError as error:
            raise failed(name, error) from error
        finally:
            os.close(fd)

    def directory(self, name: str) -> bool:
        """Whether the directory is there."""
        try:
            fd = self._open(name, descriptor.LOOKUP)
        except OSError as error:
            if error.errno in _GONE:
                return False
            raise failed(name, error) from error
        try:
            return stat.S_ISDIR(os.fstat(fd).st_mode)
        finally:
            os.close(fd)

    def target(self, name: str) -> str:
        """What a symbolic link says."""
        try:
            fd = self._open(name, descriptor.LOOKUP)
            try:
                if not stat.S_ISLNK(os.fstat(fd).st_mode):
                    raise StoreDamaged(f"{name} is not a symbolic link")
                return os.fsdecode(os.readlink(b"", dir_fd=fd))
            finally:
                os.close(fd)
        except OSError as error:
            raise failed(name, error) from error

    def _open(self, name: str, flags: int) -> int:
        """A descriptor, the caller's to close. OSError: ELOOP or ENOTDIR where a symbolic link lies on the way."""
        root = os.open(self.path, _ROOT)
        try:
            # The engine's directories may lie on disks of their own: other mounts are expected here.
            resolve = descriptor.RESOLVE_BENEATH | descriptor.RESOLVE_NO_SYMLINKS
            return descriptor.openat2(root, os.fsencode(name) or b".", flags, resolve)
        except OSError as error:
            if error.errno != errno.ENOSYS:
                raise
            return descriptor.open_below(root, os.fsencode(name) or b".", flags)  # which then goes step by step
        finally:
            os.close(root)


def required(value: T | None, name: str) -> T:
    """What the file of that name holds; StoreDamaged if it is missing."""
    if value is None:
        raise StoreDamaged(f"{name} is missing")
    return value


def parsed(parse: Callable[[], T]) -> T:
    """What `parse` gives; a document that it finds wrong is damage of the store."""
    try:
        return parse()
    except InvalidArchive as error:
        raise StoreDamaged(str(error)) from error


def failed(name: str, error: OSError) -> StreamerError:
    if error.errno in (errno.EACCES, errno.EPERM):
        return NotPermitted(f"{name} may not be read by this user; run streamer as the one that the engine runs as")
    if error.errno in _GONE:
        return StoreDamaged(f"{name} is missing")
    if error.errno == errno.ELOOP:
        return StoreDamaged(f"{name} is a symbolic link, or lies behind one")
    return StoreDamaged(f"{name} cannot be read: {os.strerror(error.errno or 0)}")
