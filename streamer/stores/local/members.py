"""The files of an image archive, by name: either spooled from a stream, or those of an OCI layout directory."""

from __future__ import annotations

import contextlib
import os
import posixpath
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from streamer.errors import InvalidArchive, NotFound, NotPermitted
from streamer.stores.local import state as states
from streamer.stores.local.source import File, Source


@dataclass(frozen=True, slots=True)
class Member:
    """One regular file. `digest` is what its bytes were found to have already, None if nobody looked."""

    name: str
    size: int
    digest: str | None
    open: Callable[[], contextlib.AbstractContextManager[Source]]

    def data(self, limit: int) -> bytes:
        """The whole of a small document; InvalidArchive beyond `limit`."""
        if self.size > limit:
            raise InvalidArchive(f"{self.name} has {self.size} bytes, more than {limit}", member=self.name)
        with self.open() as source:
            blocks = []
            left = limit + 1
            while left and (block := source.read(left)):
                blocks.append(block)
                left -= len(block)
        return b"".join(blocks)


class Members(Protocol):
    def find(self, name: str) -> Member | None:
        """The file with that name (links followed), None where there is none."""
        ...


def cleaned(name: str) -> str | None:
    """A member's name without `./`, doubled and trailing slashes; None for one that leads outside."""
    name = posixpath.normpath(name)
    return None if name.startswith(("/", "../")) or name in (".", "..") else name


@contextlib.contextmanager
def file_below(folder: int, name: str) -> Iterator[tuple[int, int]]:
    """(descriptor, size) of a regular file, no component a symlink: a layout must not lead to the host's own files.

    NotFound if it is not there, InvalidArchive if it is anything but a regular file.
    """
    *parents, leaf = name.split("/")
    with contextlib.ExitStack() as stack:
        try:
            for parent in parents:
                folder = os.open(parent, states.DIRECTORY, dir_fd=folder)
                stack.callback(os.close, folder)
            fd = os.open(leaf, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        except FileNotFoundError:
            raise NotFound(f"{name} is missing") from None
        except PermissionError as error:
            raise NotPermitted(f"{name} may not be read by this user") from error
        except OSError as error:  # ELOOP, ENOTDIR, ENXIO: a symlink, a socket …
            why = os.strerror(error.errno or 0)
            raise InvalidArchive(f"{name} is not a regular file ({why})", member=name) from None
        stack.callback(os.close, fd)
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise InvalidArchive(f"{name} is not a regular file", member=name)
        yield fd, status.st_size


class Layout:
    """An OCI layout directory, by its descriptor. `watch` wraps every source that is opened."""

    def __init__(self, root: int, watch: Callable[[Source], Source]) -> None:
        self._root, self._watch = root, watch

    def find(self, name: str) -> Member | None:
        clean = cleaned(name)
        if clean is None:
            return None
        try:
            with file_below(self._root, clean) as (_, size):
                return Member(clean, size, None, lambda: self._opened(clean))
        except NotFound:
            return None

    @contextlib.contextmanager
    def _opened(self, name: str) -> Iterator[Source]:
        with file_below(self._root, name) as (fd, _):
            yield self._watch(File(fd, name))
