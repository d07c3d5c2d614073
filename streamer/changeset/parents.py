"""Finding the directory a member belongs into: inside the tree, through links as in a chroot, made if missing."""

from __future__ import annotations

import errno
import os
import stat
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from streamer.changeset.change import Node
from streamer.changeset.descriptor import DIRECTORY, open_directory
from streamer.changeset.failures import quoted
from streamer.changeset.layers import Found, Layers
from streamer.changeset.marks import Marks
from streamer.errors import InvalidArchive

_OPEN: Final = 64
_LINKS: Final = 40


@dataclass(frozen=True, slots=True)
class Place:
    """A directory of the tree: its descriptor (owned by Parents, valid until the next `find`), its path without links,
    and whether what lower layers have at this path shows through.
    """

    fd: int
    path: bytes
    below: bool

    def inside(self, name: bytes) -> bytes:
        return self.path + b"/" + name if self.path else name


class FileInTheWay(InvalidArchive):
    """A member's directory is a file."""


MakeDirectory = Callable[[Place, bytes, Found | None], int]
"""Makes a directory in a place, like the one found in a lower layer (None: nothing there); a readable descriptor."""


class Parents:
    """Directories of the tree at `root`, kept open (64 at most) because archives name their members tree by tree."""

    def __init__(self, root: int, lower: Layers | None, marks: Marks | None, make: MakeDirectory) -> None:
        self._root = Place(os.open(b".", DIRECTORY, dir_fd=root), b"", lower is not None)
        self._lower = lower
        self._marks = marks
        self._make = make
        self._places: OrderedDict[bytes, Place] = OrderedDict()
        self._aliases: dict[bytes, bytes] = {}

    def close(self) -> None:
        while self._places:
            os.close(self._places.popitem()[1].fd)
        os.close(self._root.fd)

    def forget(self, path: bytes) -> None:
        """To be told when a directory or link at `path` (without links) goes, or what a directory hides changes."""
        self._aliases.clear()
        below = path + b"/" if path else b""
        for known in [known for known in self._places if known == path or known.startswith(below)]:
            os.close(self._places.pop(known).fd)

    def forget_links(self) -> None:
        """To be told when a new directory or link may have taken the place of a link in a lower layer."""
        self._aliases.clear()

    def find(self, path: bytes, *, make: bool) -> Place | None:
        """The directory that `path` (clean, relative) means; where it is missing it is made, or None if not `make`.

        Raises InvalidArchive where a link leads out of the tree, in circles, or a file is in the way; OSError.
        """
        known, rest = self._nearest(path)
        here = self._known(known)
        todo = rest
        links = 0
        while todo:
            name = todo.pop()
            if name in (b"", b"."):
                continue
            if name == b"..":
                if not here.path:
                    raise InvalidArchive(f"{quoted(path)} leads out of the tree through a symbolic link")
                here = self._again(here.path.rpartition(b"/")[0])
                continue
            step = self._step(here, name, make)
            if step is None:
                return None
            if isinstance(step, Place):
                here = step
                continue
            links += 1
            if links > _LINKS:
                raise InvalidArchive(f"{quoted(path)} leads through too many symbolic links")
            if step.startswith(b"/"):
                here = self._root
            todo.extend(step.split(b"/")[::-1])
        if here.path != path:
            if len(self._aliases) >= _OPEN:
                self._aliases.clear()
            self._aliases[path] = here.path
        return here

    def _nearest(self, path: bytes) -> tuple[bytes, list[bytes]]:
        """The longest beginning of `path` that is open, and the components after it, last one first."""
        rest: list[bytes] = []
        while path:
            if path in self._places:
                break
            alias = self._aliases.get(path)
            if alias is not None and (not alias or alias in self._places):
                path = alias
                break
            path, _, name = path.rpartition(b"/")
            rest.append(name)
        return path, rest

    def _known(self, path: bytes) -> Place:
        if not path:
            return self._root
        self._places.move_to_end(path)
        return self._places[path]

    def _again(self, path: bytes) -> Place:
        """A directory that was passed before, so that nothing on the way is a link or missing."""
        known, rest = self._nearest(path)
        here = self._known(known)
        while rest:
            here = self._keep(here, name := rest.pop(), open_directory(name, here.fd))
        return here

    def _step(self, here: Place, name: bytes, make: bool) -> Place | bytes | None:
        """The directory `name` in `here`, or the target of the link that it is, or None."""
        path = here.inside(name)
        if path in self._places:
            return self._known(path)
        if name.startswith(b".wh.") and self._marks is not None:
            raise InvalidArchive(f"{quoted(path)} is a whiteout's name, not a directory's")
        try:
            return self._keep(here, name, open_directory(name, here.fd))
        except FileNotFoundError:
            found = self._lower.lookup(path) if here.below and self._lower is not None else None
            if found is not None and stat.S_ISLNK(found.stat.st_mode):
                return found.readlink()
            if not make:
                return None
        except OSError as error:
            if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                raise
            st = os.stat(name, dir_fd=here.fd, follow_symlinks=False)
            if stat.S_ISLNK(st.st_mode):
                return os.readlink(name, dir_fd=here.fd)
            if self._marks is None or not self._marks.whiteout(Node(path, name, here.fd, st)):
                raise FileInTheWay(f"{quoted(path)} is a file, nothing can be put into it") from None
            if not make:
                return None
            found = None
        return self._keep(here, name, self._make(here, name, found))

    def _keep(self, here: Place, name: bytes, fd: int) -> Place:
        path = here.inside(name)
        below = here.below
        if below and self._marks is not None:
            below = not self._marks.opaque(Node(path, b".", fd, os.fstat(fd)))
        place = Place(fd, path, below)
        self._places[path] = place
        if len(self._places) > _OPEN:
            os.close(self._places.popitem(last=False)[1].fd)
        return place
