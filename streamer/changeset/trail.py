"""The directories between a root and where a walk is, with a bounded number of them open."""

from __future__ import annotations

import errno
import os
from typing import Final

from streamer.changeset.descriptor import open_directory
from streamer.changeset.failures import changed, reading_failed

OPEN: Final = 64


class Trail:
    """Owns the descriptor of a root and of the directories entered below it, at most `OPEN` at a time.

    Deeper trees have their upper directories closed on the way down and opened again on the way up, by `..` of the
    child or by name from the root; what is found is compared by device and inode with what was left, so that a rename
    meanwhile gives SourceChanged instead of another directory.
    """

    def __init__(self, root: int, path: bytes = b"") -> None:
        st = os.fstat(root)
        self.current = root
        self._path = path
        self._names: list[bytes] = [b"."]
        self._fds: list[int] = [root]
        self._identities: list[tuple[int, int]] = [(st.st_dev, st.st_ino)]
        self._shallowest = 1
        """The lowest level above the root that may be open."""
        self._spare: tuple[int, int] | None = None
        """A level opened again for `at`, with its descriptor."""

    @property
    def depth(self) -> int:
        """0 at the root."""
        return len(self._fds) - 1

    def enter(self, name: bytes, fd: int, st: os.stat_result) -> None:
        """Makes `fd` (the directory `name` in the current one) the current directory and takes it over."""
        self._names.append(name)
        self._fds.append(fd)
        self._identities.append((st.st_dev, st.st_ino))
        self.current = fd
        if len(self._fds) - self._shallowest >= OPEN:
            closing = self._shallowest
            self._shallowest += 1
            if self._fds[closing] >= 0:
                os.close(self._fds[closing])
                self._fds[closing] = -1

    def leave(self) -> None:
        """Goes back to the parent of the current directory, opening it again if need be."""
        left = self._fds[-1]
        parent = self.depth - 1
        try:
            if self._fds[parent] < 0:
                self._fds[parent] = self._upwards(left, parent)
                self._shallowest = parent
        finally:
            self._drop()
        self.current = self._fds[parent]

    def at(self, level: int) -> int:
        """The descriptor of the directory at `level`; if it had to be opened again, valid until the next call."""
        if self._fds[level] >= 0:
            return self._fds[level]
        if self._spare is not None and self._spare[0] == level:
            return self._spare[1]
        start, here = self._spare if self._spare is not None and self._spare[0] < level else (0, self._fds[0])
        for below in range(start + 1, level + 1):
            try:
                found = open_directory(self._names[below], here)
            except OSError as error:
                raise self._gone(below, error) from None
            self._release_spare()
            self._spare = (below, found)
            self._check(found, below)
            here = found
        return here

    def close(self) -> None:
        """Closes every descriptor."""
        self._release_spare()
        while self._fds:
            self._drop()

    def _upwards(self, child: int, level: int) -> int:
        try:
            fd = open_directory(b"..", child)
        except OSError as error:
            raise self._gone(level, error) from None
        st = os.fstat(fd)
        if (st.st_dev, st.st_ino) == self._identities[level]:
            return fd
        os.close(fd)  # the child was moved elsewhere, its old parent may still be in its place
        return os.dup(self.at(level))

    def _check(self, fd: int, level: int) -> None:
        st = os.fstat(fd)
        if (st.st_dev, st.st_ino) != self._identities[level]:
            raise changed(self._shown(level), "another directory has its name now")

    def _gone(self, level: int, error: OSError) -> Exception:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return changed(self._shown(level), "the directory was moved away")
        return reading_failed(self._shown(level), error)

    def _shown(self, level: int) -> bytes:
        return b"/".join(filter(None, (self._path, *self._names[1 : level + 1])))

    def _release_spare(self) -> None:
        if self._spare is not None:
            os.close(self._spare[1])
            self._spare = None

    def _drop(self) -> None:
        fd = self._fds.pop()
        self._names.pop()
        self._identities.pop()
        if fd >= 0:
            os.close(fd)
