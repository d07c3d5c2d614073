"""A layer's tar, byte for byte as it came in, from tar-split and the unpacked files; no mount is needed."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager
from typing import BinaryIO, Protocol, cast

from streamer.changeset import content, descriptor
from streamer.errors import SourceChanged, StoreDamaged, StreamerError, shown
from streamer.mounts.layer import open_layer
from streamer.stores.base import Guard
from streamer.tar import split

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Files(Protocol):
    """Where the content of each record lies; open while the layer is assembled."""

    def open(self, record: split.File, /) -> int:
        """A descriptor of the file, the caller's to close; asked in the order of the records. OSError."""
        ...


def assembly(
    records: bytes, files: Callable[[], AbstractContextManager[Files]], what: str
) -> Callable[[], Iterator[bytes]]:
    """`Layer.assemble` from the tar-split file at `records`. Each file is compared with its checksum; who reads the
    whole compares it with the digest. `what` names the layer in messages."""
    return lambda: _assembled(records, files, what)


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


def _assembled(path: bytes, files: Callable[[], AbstractContextManager[Files]], what: str) -> Iterator[bytes]:
    with contextlib.ExitStack() as stack:
        found = stack.enter_context(files())
        try:
            records = open_records(path)
        except StoreDamaged as error:
            raise StoreDamaged(f"{what} cannot be put together: {error}") from error
        except OSError as error:
            name = shown(os.path.basename(path))
            # Gone with the directory that it was in: removed, and not damaged.
            removed = error.errno == errno.ENOENT and not os.path.lexists(os.path.dirname(path))
            failure = SourceChanged if removed else StoreDamaged
            raise failure(f"{name} of {what} cannot be opened: {os.strerror(error.errno or 0)}") from error
        stack.enter_context(records)
        chunks = cast("Generator[bytes]", split.assemble(records, lambda record: _blocks(found, record, what)))
        stack.enter_context(contextlib.closing(chunks))
        yield from chunks


def _blocks(files: Files, record: split.File, what: str) -> Iterator[bytes]:
    """A record's content, exactly `record.size` bytes."""
    try:
        fd = files.open(record)
    except OSError as error:
        raise SourceChanged(
            f"{shown(record.name)} of {what} cannot be opened: {os.strerror(error.errno or 0)}"
        ) from error
    except SourceChanged:
        raise
    except StreamerError as error:
        # However it can be that a layer has no such path: when it was stored, it had.
        raise SourceChanged(f"{shown(record.name)} of {what} cannot be opened: {error}") from error
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size != record.size:
            raise SourceChanged(f"{shown(record.name)} of {what} is not the file that was stored")
        yield from content.blocks(fd, record.size, record.name)
    finally:
        os.close(fd)


class Tree:
    """The files of one unpacked layer under their members' own names: how Docker and containers/storage keep them.

    Parents that are symbolic links are followed inside of the layer, as the engines do when they unpack. `directory` is
    the caller's; the directory last opened is kept until the next, for members of one directory follow one another.
    """

    def __init__(self, directory: int) -> None:
        self._directory = directory
        self._parent: tuple[bytes, int] | None = None

    def open(self, record: split.File) -> int:
        parent, _, name = own_place(record.name).rpartition(b"/")
        if name == b"..":
            raise SourceChanged(f"{shown(record.name)} is no name of a file")
        return open_file(name, self._folder(parent))

    def close(self) -> None:
        if self._parent is not None:
            os.close(self._parent[1])
            self._parent = None

    def _folder(self, path: bytes) -> int:
        if self._parent is None or self._parent[0] != path:
            flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
            opened = descriptor.open_in_root(self._directory, path or b".", flags)
            self.close()
            self._parent = path, opened
        return self._parent[1]


def trees(path: bytes, what: str) -> Callable[[], AbstractContextManager[Tree]]:
    """The directory of an unpacked layer as the `files` of an `assembly`."""
    return lambda: _tree(path, what)


@contextlib.contextmanager
def _tree(path: bytes, what: str) -> Iterator[Tree]:
    try:
        directory = open_layer(path)
    except OSError as error:
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
