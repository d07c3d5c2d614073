"""A layer's tar, byte for byte as it came in, from tar-split and the unpacked files; no mount is needed."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import BinaryIO, Protocol

from streamer.changeset import content, descriptor
from streamer.changeset.failures import reading_failed
from streamer.errors import NotPermitted, SourceChanged, StoreDamaged, StreamerError, shown
from streamer.mounts.layer import open_layer
from streamer.stores.base import Guard, Reading
from streamer.tar import join
from streamer.tar.records import File

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_NO_NAMES = (b"", b".", b"..")


class Files(Protocol):
    """Where the content of each record lies; open while the layer is assembled."""

    def open(self, record: File, /) -> int:
        """A descriptor of the file, the caller's to close; asked in the order of the records. OSError."""
        ...


def assembly(records: bytes, files: Callable[[], AbstractContextManager[Files]], what: str) -> Reading:
    """`Layer.assemble` from the tar-split file at `records`. `what` names the layer and its store in messages.

    Besides what `Layer.assemble` raises, NotPermitted for a file that this process may not read.
    """
    return partial(_assembled, records, files, what)


def open_records(path: bytes, opener: Callable[[bytes, int], int] = os.open) -> BinaryIO:
    """The tar-split file at `path`, the caller's to close. `opener` opens it where that is not done by its path.

    Raises OSError; StoreDamaged where it is no regular file.
    """
    fd = opener(path, READ)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise StoreDamaged(f"{shown(os.path.basename(path))} is not a regular file")
        return os.fdopen(fd, "rb")
    except BaseException:
        os.close(fd)
        raise


def _assembled(
    path: bytes, files: Callable[[], AbstractContextManager[Files]], what: str, start: int = 0, stop: int | None = None
) -> Iterator[bytes]:
    with contextlib.ExitStack() as stack:
        contents = _Contents(stack.enter_context(files()), what)
        try:
            records = open_records(path)
        except StoreDamaged as error:
            raise StoreDamaged(f"{what} cannot be put together: {error}") from error
        except OSError as error:
            name = shown(os.path.basename(path))
            if is_refusal(error):
                raise not_permitted(name, what) from error
            # Gone with the directory that it was in: removed, and not damaged.
            removed = error.errno == errno.ENOENT and not os.path.lexists(os.path.dirname(path))
            failure = SourceChanged if removed else StoreDamaged
            raise failure(f"{name} of {what} cannot be opened: {os.strerror(error.errno or 0)}") from error
        stack.enter_context(records)
        yield from stack.enter_context(contextlib.closing(join.assemble(records, contents, start, stop)))


class _Contents:
    """`join.Contents`: files of at most 1 MiB as a whole, with one read, larger ones in blocks."""

    def __init__(self, files: Files, what: str) -> None:
        self._files = files
        self._what = what

    def __call__(self, record: File, start: int, stop: int) -> bytes | Iterator[bytes]:
        if record.size > content.BLOCK:
            return self._blocks(record, start, stop)
        fd = self._open(record)
        try:
            return os.pread(fd, record.size, 0)
        except OSError as error:
            raise reading_failed(record.name, error) from error
        finally:
            os.close(fd)

    def _blocks(self, record: File, start: int, stop: int) -> Iterator[bytes]:
        fd = self._open(record)
        try:
            yield from content.blocks(fd, stop, record.name, offset=start)
        finally:
            os.close(fd)

    def _open(self, record: File) -> int:
        """A regular file of the size that was stored, the caller's to close."""
        try:
            fd = self._files.open(record)
        except OSError as error:
            if is_refusal(error):
                raise not_permitted(shown(record.name), self._what) from error
            raise self._missing(record, os.strerror(error.errno or 0)) from error
        except SourceChanged:
            raise
        except NotPermitted as error:
            raise not_permitted(shown(record.name), self._what) from error
        except StreamerError as error:
            # However it can be that a layer has no such path: when it was stored, it had.
            raise self._missing(record, str(error)) from error
        status = os.fstat(fd)
        if status.st_size != record.size or not stat.S_ISREG(status.st_mode):
            os.close(fd)
            raise SourceChanged(f"{shown(record.name)} of {self._what} is not the file that was stored")
        return fd

    def _missing(self, record: File, why: str) -> SourceChanged:
        return SourceChanged(f"{shown(record.name)} of {self._what} cannot be opened: {why}")


class Tree:
    """The files of one unpacked layer under their members' own names: how Docker and containers/storage keep them.

    `directory` is the caller's, as is how a folder in it is opened: by default parents that are symbolic links are
    followed inside of the layer, as the engines do when they unpack. The folder last opened is kept until the next, for
    members of one folder follow one another.
    """

    def __init__(self, directory: int, opened: Callable[[int, bytes, int], int] = descriptor.open_in_root) -> None:
        self._directory = directory
        self._opened = opened
        self._parent: bytes | None = None
        self._folder = -1

    def open(self, record: File) -> int:
        return self.at(record.name)

    def at(self, place: bytes) -> int:
        """A descriptor of the file at a path, the caller's to close. OSError, and what opening a folder raises."""
        parent, _, name = place.rpartition(b"/")
        if name in _NO_NAMES:
            parent, _, name = own_place(place).rpartition(b"/")
            if name in _NO_NAMES:
                raise SourceChanged(f"{shown(place)} is no name of a file")
        if parent != self._parent:
            self._enter(parent)
        return open_file(name, self._folder)

    def close(self) -> None:
        if self._parent is not None:
            os.close(self._folder)
            self._parent = None

    def _enter(self, parent: bytes) -> None:
        folder = self._opened(self._directory, own_place(parent) or b".", _FOLDER)
        self.close()
        self._parent, self._folder = parent, folder


def trees(path: bytes, what: str) -> Callable[[], AbstractContextManager[Tree]]:
    """The directory of an unpacked layer as the `files` of an `assembly`."""
    return partial(_tree, path, what)


@contextlib.contextmanager
def _tree(path: bytes, what: str) -> Iterator[Tree]:
    try:
        directory = open_layer(path)
    except OSError as error:
        if is_refusal(error):
            raise not_permitted("the directory", what) from error
        raise SourceChanged(
            f"the directory of {what} cannot be opened: {os.strerror(error.errno or 0)}; its store may have removed it"
        ) from error
    tree = Tree(directory)
    try:
        yield tree
    finally:
        tree.close()
        os.close(directory)


def open_file(name: bytes, directory: int) -> int:
    """A file for reading, never through a symbolic link, leaving its access time alone where that is allowed."""
    try:
        return os.open(name, READ | os.O_NOATIME, dir_fd=directory)
    except PermissionError:  # O_NOATIME is for the owner
        return os.open(name, READ, dir_fd=directory)


def is_refusal(error: OSError) -> bool:
    """Whether the kernel refused for want of a right: then the file is there, and nothing has changed."""
    return error.errno in (errno.EACCES, errno.EPERM)


def not_permitted(name: str, what: str) -> NotPermitted:
    """The error to raise for a file or directory of a layer that the kernel does not let this process read."""
    return NotPermitted(
        f"{name} of {what} may not be read: run streamer as the owner of the store's files, or grant it "
        "CAP_DAC_READ_SEARCH"
    )


def own_place(name: bytes) -> bytes:
    """A member's name as a path relative to the layer's root."""
    return b"/".join(part for part in name.split(b"/") if part not in (b"", b"."))


def directory_guard(path: bytes, what: str) -> Guard:
    """The end check of stores that move a directory away before they delete anything in it: SourceChanged unless the
    directory at `path` is still the one that is there now.

    Taken when a record is made, of the very directory that a lease holds open: only as long as it is held does no other
    directory get its number.
    """
    identity = _identity(path)

    def check() -> None:
        if identity is None or _identity(path) != identity:
            raise SourceChanged(f"{what} was removed from the store meanwhile")

    return check


def _identity(path: bytes) -> tuple[int, int] | None:
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino
