"""What overlay file systems write beside the data in a layer directory: whiteouts, opaque, redirect, metacopy."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from typing import Final

from streamer.changeset.change import Node
from streamer.changeset.content import attribute, attributes
from streamer.changeset.descriptor import LOOKUP, open_below
from streamer.changeset.failures import reading_failed

OPAQUE_VALUE: Final = b"y"  # "x" says only that xattr whiteouts may lie in the directory
WHITEOUT_PREFIX: Final = b".wh."
OPAQUE_FILE: Final = b".wh..wh..opq"

_KERNEL: Final = ("trusted.overlay.", "user.overlay.")
_FUSE: Final = (*_KERNEL, "user.fuseoverlayfs.")


@dataclass(frozen=True, slots=True)
class DirectoryMarks:
    """The marks of one directory: whether it hides what lies below it, whether xattr whiteouts may lie in it, and where
    its lower part is looked for if it was renamed."""

    opaque: bool = False
    xwhiteouts: bool = False
    redirect: bytes | None = None


_NONE: Final = DirectoryMarks()


@dataclass(frozen=True, slots=True)
class Marks:
    """Reads the marks of one kind of store: `trusted.overlay.*`, or `user.overlay.*` where `userxattr`.

    `fuse` is for stores written through fuse-overlayfs, which knows several spellings of the same: any opaque attribute
    (trusted, user, its own), files called `.wh.NAME` and `.wh..wh..opq` besides the kernel's whiteouts. Nothing that is
    called `.wh.*` is ever a file of such a store.
    """

    userxattr: bool = False
    fuse: bool = False

    @property
    def prefix(self) -> str:
        return "user.overlay." if self.userxattr else "trusted.overlay."

    @property
    def opaque_name(self) -> str:
        return self.prefix + "opaque"

    @property
    def follows(self) -> bool:
        """Whether redirects and metacopies may be followed: only where nobody but root can have written them."""
        return not (self.userxattr or self.fuse)

    def directory(self, node: Node, fd: int) -> DirectoryMarks:
        """The marks of an open directory."""
        found = attributes(node, self._names("opaque", "redirect"), fd)
        if not found and not self.fuse:
            return _NONE
        opaque = [value for name, value in found.items() if name.endswith("opaque")]
        redirect = next((value for name, value in found.items() if name.endswith("redirect")), None)
        hides = OPAQUE_VALUE in opaque or (self.fuse and _has(fd, OPAQUE_FILE, node.path))
        return DirectoryMarks(hides, b"x" in opaque, redirect)

    def opaque(self, node: Node) -> bool:
        """Whether the directory hides what lower layers have below it."""
        if OPAQUE_VALUE in attributes(node, self._names("opaque")).values():
            return True
        return self.fuse and _has(node.parent, node.name + b"/" + OPAQUE_FILE, node.path)

    def redirect(self, node: Node) -> bytes | None:
        """Where the lower part of a renamed directory (or metacopy file) is looked for."""
        return next(iter(attributes(node, self._names("redirect")).values()), None)

    def metacopy(self, node: Node) -> bool:
        """Whether a regular file is attributes only, its data lying in a lower layer. Raw, it reads as zeros."""
        # An empty file needs no data from below, whatever the mark says.
        return node.stat.st_size > 0 and bool(attributes(node, self._names("metacopy")))

    def whiteout(self, node: Node) -> bool:
        """Whether the node stands for a deletion: character device 0:0, or an empty file marked so (kernel 6.7 on)."""
        mode = node.stat.st_mode
        if stat.S_ISCHR(mode):
            return node.stat.st_rdev == 0
        if not stat.S_ISREG(mode) or node.stat.st_size != 0 or not self.xwhiteout(node):
            return False
        return attribute(Node(node.path, b".", node.parent, node.stat), self.opaque_name) == b"x"

    def xwhiteout(self, node: Node) -> bool:
        """Whether an empty file has the whiteout attribute, which counts in directories that have `xwhiteouts`."""
        return attribute(node, self.prefix + "whiteout") is not None

    def hidden_by_file(self, parent: int, name: bytes, path: bytes) -> bool:
        """Whether a file `.wh.NAME` in a layer's directory deletes the name there; `path` is for errors."""
        return self.fuse and _has(parent, WHITEOUT_PREFIX + name, path)

    def _names(self, *kinds: str) -> list[str]:
        prefixes = _FUSE if self.fuse else (self.prefix,)
        return [prefix + kind for kind in kinds for prefix in prefixes]


def trusted_visible() -> bool:
    """Whether this process sees `trusted.*` attributes at all: to others the kernel says that there are none, so that
    what was deleted would come back and a metacopy file would read as zeros."""
    try:
        fd = os.memfd_create("streamer-probe", os.MFD_CLOEXEC)
    except OSError:
        return os.geteuid() == 0
    try:
        os.setxattr(fd, "trusted.streamer", b"")
    except OSError as error:
        return error.errno == errno.ENOTSUP and os.geteuid() == 0
    finally:
        os.close(fd)
    return True


def _has(directory: int, path: bytes, shown_as: bytes) -> bool:
    try:
        os.close(open_below(directory, path, LOOKUP))
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG):
            return False
        raise reading_failed(shown_as, error) from None
    return True
