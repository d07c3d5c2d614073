"""An overlay's upper directory as changes: what a container did to its image, without comparing the two."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import replace
from typing import Final

from streamer.changeset.change import Change, Kind, Node
from streamer.changeset.descriptor import DIRECTORY, open_below
from streamer.changeset.failures import changed, quoted, reading_failed
from streamer.changeset.layers import Layers
from streamer.changeset.marks import OPAQUE_FILE, WHITEOUT_PREFIX, Marks
from streamer.changeset.merge import merge
from streamer.changeset.vanishing import Vanished, unless_whiteout
from streamer.changeset.walk import visit
from streamer.errors import SourceChanged, Unsupported

_ATTEMPTS: Final = 100


def changes(
    upper: int,
    *,
    parent: Layers | None,
    merged: int | Layers | None,
    userxattr: bool = False,
    fuse: bool = False,
    on_vanished: Vanished | None = None,
) -> Generator[Change, None, None]:
    """The changes that `upper` makes to the layers below it, in the order of a walk, the root omitted.

    A whiteout gives a DELETE with the whiteout's own node; a directory that hides what was below it has `opaque`. ADD
    or MODIFY is told by looking the path up in `parent`; without one everything is a MODIFY. Names come from the raw
    upper, but what has its data elsewhere is read through `merged`, the whole: a root descriptor of its mount, or its
    layers. The node of a metacopy file is the merged one, and a renamed directory (redirect) comes as its whole merged
    subtree, new and opaque at its new path. Where that is needed and `merged` is None, Unsupported names the path (raw,
    a metacopy file would read as zeros). A node is valid until the generator is advanced. Descriptors given stay the
    caller's. What is gone from the upper before it was yielded is left out and told to `on_vanished`, as in `walk`.

    With `fuse` the marks are those of fuse-overlayfs, which also makes new directories opaque and leaves whiteouts of
    its own behind: a DELETE, and `opaque`, come only where `parent` has something to be hidden.

    Whiteouts are hard links of one another (st_nlink 2): never ask a DELETE for its links.
    """
    reader = _Reader(Marks(userxattr, fuse), parent, merged, on_vanished)
    with closing(reader), closing(visit(upper, enters=reader.enters, on_vanished=on_vanished)) as nodes:
        for node in nodes:
            if node.path:
                yield from reader.changes(node)
            else:
                reader.check_root(node)


class _Reader:
    def __init__(
        self, marks: Marks, parent: Layers | None, merged: int | Layers | None, on_vanished: Vanished | None
    ) -> None:
        self._marks = marks
        self._parent = parent
        self._merged = merged
        self._on_vanished = on_vanished
        self._left_out: bytes | None = None
        """The last directory that was not entered: renamed, or hidden by a file beside it."""
        self._unsure: bytes | None = None
        """The last directory that was gone when its marks were looked for."""
        self._directory: tuple[bytes, int] | None = None
        """The merged directory of the last metacopy file."""

    def close(self) -> None:
        if self._directory is not None:
            os.close(self._directory[1])
            self._directory = None

    def check_root(self, node: Node) -> None:
        """Unsupported for a mark that fuse-overlayfs honours and that no changeset can say."""
        if self._marks.fuse and self._marks.opaque(node):
            raise Unsupported("everything below the root directory was deleted at once, which a layer cannot say")

    def enters(self, node: Node) -> bool:
        """Whether the raw directory is what the merged one is; told just before its node comes."""
        if not node.path:
            return True
        try:
            raw = not self._is_file_mark(node) and self._marks.redirect(node) is None
        except SourceChanged:
            # Opening it will tell whether it is gone.
            self._unsure = node.path
            return True
        if not raw:
            self._left_out = node.path
        return raw

    def changes(self, node: Node) -> Iterator[Change]:
        """What the node says, or what has its name by now if it was replaced."""
        attempt = 0
        while True:
            try:
                return self._changes(node, again=attempt > 0)
            except SourceChanged:
                attempt += 1
                now = _looked_again(node)
                if now is None and self._on_vanished is not None:
                    self._on_vanished(node.path)
                    return iter(())
                # Of a directory that came or went, what is below it was not told.
                directories = any(stat.S_ISDIR(each.stat.st_mode) for each in (node, now) if each is not None)
                if now is None or directories or attempt == _ATTEMPTS:
                    raise
                node = now

    def _changes(self, node: Node, again: bool) -> Iterator[Change]:
        if self._is_file_mark(node):
            return self._deleted_by_file(node)
        if stat.S_ISDIR(node.stat.st_mode):
            if node.path == self._left_out:
                return self._renamed(node)
            if node.path == self._unsure and self._marks.redirect(node) is not None:
                raise changed(node.path, "another directory has its name now")
            opaque = self._marks.opaque(node) and (not self._marks.fuse or self._hides(node.path))
            return iter((Change(node.path, self._kind(node.path), node, opaque),))
        if self._marks.whiteout(node):
            return self._deleted(node.path, node)
        kind = self._kind(node.path)
        if stat.S_ISREG(node.stat.st_mode) and self._marks.metacopy(node):
            node = self._whole(node, self._needed(node.path, "has its data in a lower layer (metacopy)"))
        elif node.stat.st_nlink > 1 and isinstance(self._merged, int) and not again:
            # Its other names may lie in a renamed directory: device and inode must be of the same view for all. What
            # was replaced meanwhile stands for itself: the mount may go on saying that there is nothing.
            node = self._whole(node, self._merged)
        return iter((Change(node.path, kind, node),))

    def _is_file_mark(self, node: Node) -> bool:
        """Whether fuse-overlayfs shows nothing under this name."""
        return self._marks.fuse and (
            node.name.startswith(WHITEOUT_PREFIX) or self._marks.hidden_by_file(node.parent, node.name, node.path)
        )

    def _deleted_by_file(self, node: Node) -> Iterator[Change]:
        if not node.name.startswith(WHITEOUT_PREFIX) or node.name == OPAQUE_FILE:
            return iter(())
        directory, slash, name = node.path.rpartition(b"/")
        name = name.removeprefix(WHITEOUT_PREFIX)
        if name in (b"", b".", b".."):
            return iter(())
        return self._deleted(directory + slash + name, node)

    def _deleted(self, path: bytes, node: Node) -> Iterator[Change]:
        if self._marks.fuse and self._parent is not None and self._parent.lookup(path) is None:
            return iter(())
        return iter((Change(path, Kind.DELETE, node),))

    def _kind(self, path: bytes) -> Kind:
        return Kind.ADD if self._parent is not None and self._parent.lookup(path) is None else Kind.MODIFY

    def _renamed(self, raw: Node) -> Iterator[Change]:
        merged = self._needed(raw.path, "was renamed (redirect_dir)")
        opaque = self._hides(raw.path)
        kind = self._kind(raw.path)
        told = self._on_vanished
        if isinstance(merged, int):
            told = told and unless_whiteout(merged, told, live=True)
            subtree = visit(merged, start=raw.path, on_vanished=told)
        else:
            subtree = merge(merged.stack, start=raw.path, on_vanished=told)
        with closing(subtree) as nodes:
            for node in nodes:
                if node.path == raw.path:
                    yield Change(node.path, kind, node, opaque)
                else:
                    yield Change(node.path, Kind.ADD, node)

    def _hides(self, path: bytes) -> bool:
        """Whether the parent has a directory where the renamed one is now, which would be merged into it."""
        if self._parent is None:
            return True
        found = self._parent.lookup(path)
        return found is not None and stat.S_ISDIR(found.stat.st_mode)

    def _whole(self, raw: Node, merged: int | Layers) -> Node:
        """The same file in the merged tree."""
        if isinstance(merged, Layers):
            found = merged.lookup(raw.path)
            if found is None:
                raise changed(raw.path, "it is not in the merged tree any more")
            return merged.node(found)
        directory, _, name = raw.path.rpartition(b"/")
        try:
            if self._directory is None or self._directory[0] != directory:
                self.close()
                self._directory = (directory, open_below(merged, directory, DIRECTORY))
            fd = self._directory[1]
            st = os.stat(name, dir_fd=fd, follow_symlinks=False)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise changed(raw.path, "it is not in the merged tree any more") from None
            raise reading_failed(raw.path, error) from None
        return Node(raw.path, name, fd, st)

    def _needed(self, path: bytes, why: str) -> int | Layers:
        if self._merged is None:
            raise Unsupported(f"{quoted(path)} {why}: it can only be read together with all layers below")
        return self._merged


def _looked_again(node: Node) -> Node | None:
    """What has the node's name now; None if nothing does."""
    try:
        return replace(node, stat=os.stat(node.name, dir_fd=node.parent, follow_symlinks=False))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise reading_failed(node.path, error) from None
