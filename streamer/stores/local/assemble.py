"""A stored layer's tar, byte for byte as it came in, from tar-split and the unpacked files; no mount is needed."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Generator, Iterator
from typing import cast

from streamer.changeset import content, descriptor
from streamer.errors import SourceChanged, StoreDamaged, shown
from streamer.oci import digest as digests
from streamer.stores.base import Guard
from streamer.stores.local import state as states
from streamer.stores.local.places import Places
from streamer.stores.local.unpack import SPLIT
from streamer.tar import split

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def guard(path: bytes, what: str) -> Guard:
    """The end check: SourceChanged unless the directory at `path` is still the one that is there now.

    Taken when a record is made, of the very directory that a lease holds open: only as long as it is held does no other
    directory get its number. Removal moves directories into the trash before it deletes anything in them, so one that
    still has its place has still all its files.
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


def assembly(path: bytes, diff_id: str) -> Callable[[], Iterator[bytes]]:
    """`Layer.assemble` for the layer directory `path`. Each file is compared with its checksum; who reads the whole
    compares it with `diff_id`."""
    return lambda: _assembled(path, diff_id)


def _assembled(path: bytes, diff_id: str) -> Iterator[bytes]:
    what = f"layer {digests.short(diff_id)}"
    with contextlib.ExitStack() as stack:
        try:
            folder = os.open(path, states.DIRECTORY)
        except OSError as error:
            raise SourceChanged(f"{what} was removed from the store meanwhile") from error
        stack.callback(os.close, folder)
        files = stack.enter_context(_Files(folder, what))
        try:
            records = os.fdopen(os.open(SPLIT, _READ, dir_fd=folder), "rb")
        except OSError as error:
            raise StoreDamaged(f"{SPLIT} of {what} cannot be opened: {os.strerror(error.errno or 0)}") from error
        stack.enter_context(records)
        chunks = cast("Generator[bytes]", split.assemble(records, files.blocks))
        stack.enter_context(contextlib.closing(chunks))
        yield from chunks


class _Files:
    """Finds the content of each record below one layer's directory."""

    def __init__(self, folder: int, what: str) -> None:
        self._what = what
        with contextlib.ExitStack() as stack:
            self._places = stack.enter_context(contextlib.closing(Places(folder)))
            self._diff = self._directory(folder, "diff", stack)
            self._kept = self._directory(folder, "kept", stack)
            self._stack = stack.pop_all()
        if self._diff is None:
            self._stack.close()
            raise StoreDamaged(f"diff of {what} is missing")

    def __enter__(self) -> _Files:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _directory(self, folder: int, name: str, stack: contextlib.ExitStack) -> int | None:
        try:
            fd = os.open(name, states.DIRECTORY, dir_fd=folder)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreDamaged(f"{name} of {self._what} cannot be opened: {os.strerror(error.errno or 0)}") from error
        stack.callback(os.close, fd)
        return fd

    def blocks(self, record: split.File) -> Iterator[bytes]:
        """A record's content, exactly `record.size` bytes."""
        place = self._places.place(record)
        fd = self._open(record, place)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode) or status.st_size != record.size:
                raise SourceChanged(f"{shown(record.name)} of {self._what} is not the file that was stored")
            yield from content.blocks(fd, record.size, record.name)
        finally:
            os.close(fd)

    def _open(self, record: split.File, place: bytes) -> int:
        if self._kept is not None:
            with contextlib.suppress(FileNotFoundError):
                return os.open(str(record.index), _READ, dir_fd=self._kept)
        assert self._diff is not None
        try:
            try:
                return descriptor.open_below(self._diff, place, _READ | os.O_NOATIME)
            except PermissionError:  # O_NOATIME is for the owner
                return descriptor.open_below(self._diff, place, _READ)
        except OSError as error:
            raise SourceChanged(
                f"{shown(record.name)} of {self._what} cannot be opened: {os.strerror(error.errno or 0)}"
            ) from error
