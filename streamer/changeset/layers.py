"""Look-ups in a stack of overlay layer directories without mounting it, by the rules the kernel merges them with."""

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
from streamer.changeset.descriptor import DIRECTORY, open_below
from streamer.changeset.failures import quoted, reading_failed
from streamer.changeset.marks import Marks
from streamer.errors import InvalidRequest, Unsupported

_OPEN: Final = 128
_REMEMBERED: Final = 1024
_LINKS: Final = 40


@dataclass(frozen=True, slots=True)
class Found:
    """What the merged tree has at `path`: its attributes, and `layer`, the index of the directory it lies in."""

    path: bytes
    layer: int
    stat: os.stat_result
    _layers: Layers

    def readlink(self) -> bytes:
        """The target of a symbolic link."""
        return link_target(self._layers.node(self))

    def xattrs(self) -> dict[bytes, bytes]:
        """As `content.xattrs`."""
        return xattrs(self._layers.node(self))

    def open(self) -> int:
        """A descriptor of a regular file's content, the caller's to close. Unsupported for a metacopy file."""
        node = self._layers.node(self)
        if self._layers.marks.metacopy(node):
            raise Unsupported(f"the data of {quoted(self.path)} lies in another layer (metacopy): mount the layers")
        return open_regular(node)


class Layers:
    """A read-only stack of layer directories, topmost first, that do not change while it is used.

    The descriptors given stay the caller's. Those of directories inside are kept for the next look-up (128 at most)
    until `close`. Not for several threads at once. A directory that was renamed (redirect_dir) is refused with
    Unsupported naming it: only a mount follows that.
    """

    def __init__(self, directories: Sequence[int], userxattr: bool = False) -> None:
        self.marks = Marks(userxattr)
        self._roots = tuple(directories)
        self._open: OrderedDict[tuple[int, bytes], int] = OrderedDict()
        self._live: OrderedDict[bytes, tuple[int, ...]] = OrderedDict()
        self._all = tuple(range(len(self._roots)))

    def __enter__(self) -> Layers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Closes what was opened inside the layers."""
        while self._open:
            os.close(self._open.popitem()[1])

    def lookup(self, path: bytes) -> Found | None:
        """What lies at `path` (relative, links not followed, not even on the way), None if nothing does."""
        if not path:
            return Found(b"", 0, os.fstat(self._roots[0]), self) if self._roots else None
        parent, _, name = path.rpartition(b"/")
        for layer in self._contributing(parent):
            node = self._stat(layer, parent, name, path)
            if node is not None:
                return None if self.marks.whiteout(node) else Found(path, layer, node.stat, self)
        return None

    def resolve(self, path: bytes, *, follow: bool = True) -> bytes | None:
        """`path` with every link followed as in a chroot (the last one only if `follow`); None if nothing is there.

        InvalidRequest after 40 links.
        """
        here: list[bytes] = []
        todo = path.split(b"/")[::-1]
        links = 0
        while todo:
            name = todo.pop()
            if name in (b"", b"."):
                continue
            if name == b"..":
                del here[-1:]
                continue
            found = self.lookup(b"/".join((*here, name)))
            if found is None:
                return None
            if stat.S_ISLNK(found.stat.st_mode) and (todo or follow):
                links += 1
                if links > _LINKS:
                    raise InvalidRequest(f"{quoted(path)} leads through too many symbolic links")
                target = found.readlink()
                if target.startswith(b"/"):
                    here.clear()
                todo.extend(target.split(b"/")[::-1])
            else:
                here.append(name)
        return b"/".join(here)

    def node(self, found: Found) -> Node:
        """The thing found as a node, for the functions of `content`; valid until the next look-up."""
        if not found.path:
            return Node(b"", b".", self._roots[found.layer], found.stat)
        parent, _, name = found.path.rpartition(b"/")
        return Node(found.path, name, self._directory(found.layer, parent), found.stat)

    def _contributing(self, path: bytes) -> tuple[int, ...]:
        """The layers whose directories at `path` are merged, topmost first; none if the merged tree has no such one."""
        known = path
        rest: list[bytes] = []
        while known and known not in self._live:
            known, _, name = known.rpartition(b"/")
            rest.append(name)
        live = self._all
        if known:
            live = self._live[known]
            self._live.move_to_end(known)
        while rest and live:
            name = rest.pop()
            live = self._merged(live, known, name)
            known = known + b"/" + name if known else name
            self._live[known] = live
            if len(self._live) > _REMEMBERED:
                self._live.popitem(last=False)
        return live

    def _merged(self, live: tuple[int, ...], parent: bytes, name: bytes) -> tuple[int, ...]:
        path = parent + b"/" + name if parent else name
        merged: list[int] = []
        for layer in live:
            node = self._stat(layer, parent, name, path)
            if node is None:
                continue
            if not stat.S_ISDIR(node.stat.st_mode):  # a whiteout, or a file that hides the directories below
                break
            if self.marks.redirect(node) is not None:
                raise Unsupported(f"{quoted(path)} was renamed inside its overlay (redirect_dir): mount the layers")
            merged.append(layer)
            if self.marks.opaque(node):
                break
        return tuple(merged)

    def _stat(self, layer: int, parent: bytes, name: bytes, path: bytes) -> Node | None:
        fd = self._directory(layer, parent)
        try:
            return Node(path, name, fd, os.stat(name, dir_fd=fd, follow_symlinks=False))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise reading_failed(path, error) from None

    def _directory(self, layer: int, path: bytes) -> int:
        if not path:
            return self._roots[layer]
        fd = self._open.get((layer, path))
        if fd is None:
            try:
                fd = open_below(self._roots[layer], path, DIRECTORY)
            except OSError as error:
                raise reading_failed(path, error) from None
            self._open[layer, path] = fd
            if len(self._open) > _OPEN:
                os.close(self._open.popitem(last=False)[1])
        else:
            self._open.move_to_end((layer, path))
        return fd
