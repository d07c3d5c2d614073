"""Look-ups by path in a stack of overlay layer directories without mounting it."""

from __future__ import annotations

import os
import stat
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Final

from streamer.changeset.change import Node
from streamer.changeset.content import link_target, open_regular, xattrs
from streamer.changeset.marks import Marks
from streamer.changeset.parts import Directory, Met
from streamer.changeset.stack import Stack

_REMEMBERED: Final = 1024


@dataclass(frozen=True, slots=True)
class Found:
    """What the merged tree has at `path`: its attributes, and `layer`, the index of the directory it lies in."""

    path: bytes
    layer: int
    stat: os.stat_result
    _layers: Layers
    _met: Met | None

    def readlink(self) -> bytes:
        """The target of a symbolic link."""
        return link_target(self._layers.node(self))

    def xattrs(self) -> dict[bytes, bytes]:
        """As `content.xattrs`."""
        return xattrs(self._layers.node(self))

    def open(self) -> int:
        """A descriptor of a regular file's content, the caller's to close."""
        return open_regular(self._layers.node(self))


class Layers:
    """A read-only stack of layer directories, topmost first, that do not change while it is used.

    The descriptors given stay the caller's. Those of directories inside are kept for the next look-up (a bounded
    number) until `close`. Not for several threads at once. What is renamed (redirect) or has its data elsewhere
    (metacopy) is followed where only root can have marked it so, else refused with Unsupported naming it.
    """

    def __init__(self, directories: Sequence[int], userxattr: bool = False, *, fuse: bool = False) -> None:
        self.marks = Marks(userxattr, fuse)
        self.stack = Stack(directories, self.marks)
        self._known: OrderedDict[bytes, Directory] = OrderedDict()

    def __enter__(self) -> Layers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Closes what was opened inside the layers."""
        self.stack.close()

    def lookup(self, path: bytes) -> Found | None:
        """What lies at `path` (relative, links not followed, not even on the way), None if nothing does."""
        if not path:
            root = self.stack.root
            return Found(b"", 0, os.fstat(self.stack.descriptor(root[0], b"")), self, None) if root else None
        parent, _, name = path.rpartition(b"/")
        directory = self._directory(parent)
        met = self.stack.find(directory, name, path) if directory else None
        return None if met is None else Found(path, met.part.layer, met.stat, self, met)

    def node(self, found: Found) -> Node:
        """The thing found as a node, for the functions of `content`; valid until the next look-up."""
        if found._met is None:
            return Node(b"", b".", self.stack.descriptor(self.stack.root[0], b""), found.stat, layer=0)
        parent = found.path.rpartition(b"/")[0]
        return self.stack.whole(self._directory(parent), found._met, found.path)

    def holders(self, path: bytes) -> tuple[int, ...]:
        """The layers, by their numbers, that add to the directory at `path`, topmost first; none if there is none."""
        return tuple(part.layer for part in self._directory(path))

    def _directory(self, path: bytes) -> Directory:
        """The merged directory at a path; without parts if the merged tree has no directory there."""
        known, rest = path, []
        while known and known not in self._known:
            known, _, name = known.rpartition(b"/")
            rest.append(name)
        here = self.stack.root
        if known:
            here = self._known[known]
            self._known.move_to_end(known)
        while rest and here:
            name = rest.pop()
            inside = known + b"/" + name if known else name
            here = self._inside(here, name, inside)
            known = inside
            self._known[known] = here
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        return here

    def _inside(self, here: Directory, name: bytes, path: bytes) -> Directory:
        met = self.stack.find(here, name, path)
        if met is None or not stat.S_ISDIR(met.stat.st_mode):
            return ()
        part = self.stack.entered(met, path)
        return () if part is None else self.stack.merged(here, part, path)
