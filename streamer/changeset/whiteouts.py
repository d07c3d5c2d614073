"""How deletions of lower layers' files land in a tree: as overlayfs' marks, or by deleting."""

from __future__ import annotations

import enum
import errno
import os
import stat
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Protocol

from streamer.changeset.attributes import Attributes, Attributing
from streamer.changeset.change import Node
from streamer.changeset.descriptor import open_directory
from streamer.changeset.marks import OPAQUE_VALUE, Marks
from streamer.changeset.member import MemberLike
from streamer.changeset.parents import Place
from streamer.changeset.removal import clear, remove
from streamer.errors import Unsupported

PREFIX: Final = b".wh."
METADATA: Final = b".wh..wh."
OPAQUE: Final = b".wh..wh..opq"

NO_XATTRS: Final[Mapping[bytes, bytes]] = MappingProxyType({})


class Whiteouts(enum.Enum):
    """What a member called `.wh.name` means."""

    OVERLAY = "overlay"
    """Writes overlayfs' own marks: the tree is one layer directory, new and empty at the start."""
    DELETE = "delete"
    """Removes the name: the tree holds the lower layers' files, as UnpackLayer of moby sees it."""
    PLAIN = "plain"
    """Nothing: it is a file like any other (build contexts)."""


class Landing(Protocol):
    """What the two kinds of trees do differently.

    In both, a deletion concerns lower layers only and may come before or after what the archive brings under the same
    name (image-spec); so what the archive brought stays.
    """

    def brought(self, place: Place, name: bytes) -> None:
        """Notes that the archive made something there."""
        ...

    def is_own(self, path: bytes) -> bool:
        """Whether the archive brought what lies at the path."""
        ...

    def make_directory(self, place: Place, name: bytes) -> int:
        """A new directory, mode 0700, where nothing visible is; a readable descriptor."""
        ...

    def delete(self, place: Place, name: bytes, member: MemberLike) -> None:
        """Carries out `.wh.name`."""
        ...

    def make_opaque(self, place: Place) -> None:
        """Carries out `.wh..wh..opq`."""
        ...


class LayerLanding:
    """A layer directory of an overlay, everything in which the archive brought."""

    def __init__(self, marks: Marks, give: Attributing) -> None:
        self._marks = marks
        self._give = give

    def brought(self, place: Place, name: bytes) -> None:
        return

    def is_own(self, path: bytes) -> bool:
        return True

    def make_directory(self, place: Place, name: bytes) -> int:
        hiding = is_whiteout(self._marks, place, name)
        if hiding:
            os.unlink(name, dir_fd=place.fd)
        os.mkdir(name, 0o700, dir_fd=place.fd)
        fd = open_directory(name, place.fd)
        if hiding:  # without the mark, what the whiteout hid would show through the new directory
            os.setxattr(fd, self._marks.opaque_name, OPAQUE_VALUE)
        return fd

    def delete(self, place: Place, name: bytes, member: MemberLike) -> None:
        try:
            st = os.stat(name, dir_fd=place.fd, follow_symlinks=False)
        except FileNotFoundError:
            os.mknod(name, stat.S_IFCHR, 0, dir_fd=place.fd)
            attributes = Attributes(0, member.uid, member.gid, member.mtime, NO_XATTRS)
            self._give.to_special(place.fd, name, attributes, lambda _: None)
            return
        if stat.S_ISDIR(st.st_mode):
            fd = open_directory(name, place.fd)
            try:
                os.setxattr(fd, self._marks.opaque_name, OPAQUE_VALUE)
            finally:
                os.close(fd)

    def make_opaque(self, place: Place) -> None:
        if place.path:
            os.setxattr(place.fd, self._marks.opaque_name, OPAQUE_VALUE)
        elif place.below:
            raise Unsupported("the archive hides everything below its root directory, which overlayfs cannot do")


class TreeLanding:
    """A tree of ordinary files, of which the archive's own are remembered by their paths."""

    def __init__(self) -> None:
        self._own: set[bytes] = set()
        """Also the directories above what was brought."""

    def brought(self, place: Place, name: bytes) -> None:
        self._own.add(place.inside(name))
        path = place.path
        while path and path not in self._own:
            self._own.add(path)
            path = path.rpartition(b"/")[0]

    def is_own(self, path: bytes) -> bool:
        return path in self._own

    def make_directory(self, place: Place, name: bytes) -> int:
        os.mkdir(name, 0o700, dir_fd=place.fd)
        return open_directory(name, place.fd)

    def delete(self, place: Place, name: bytes, member: MemberLike) -> None:
        path = place.inside(name)
        if path not in self._own:
            remove(place.fd, name, path)
            return
        try:
            fd = open_directory(name, place.fd)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                return
            raise
        clear(fd, path, keeps=self.is_own)

    def make_opaque(self, place: Place) -> None:
        clear(os.dup(place.fd), place.path, keeps=self.is_own)


def is_whiteout(marks: Marks, place: Place, name: bytes) -> bool:
    """Whether a whiteout has the name."""
    try:
        st = os.stat(name, dir_fd=place.fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return marks.whiteout(Node(place.inside(name), name, place.fd, st))
