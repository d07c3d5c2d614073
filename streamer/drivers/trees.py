"""The two ways to read a file system: through a mount's root, or its layers one by one."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager

from streamer import native
from streamer.changeset.change import Node
from streamer.changeset.descriptor import open_below, open_directory, open_in_root
from streamer.changeset.failures import changed, name_too_long, reading_failed
from streamer.changeset.layers import Layers
from streamer.changeset.merge import Branches, directory, merge
from streamer.changeset.parts import Directory
from streamer.changeset.vanishing import Vanished, unless_whiteout
from streamer.changeset.walk import Select, branch, walk
from streamer.drivers.base import Place, Start, Tree
from streamer.errors import NotFound, SourceFailed, Unsupported, shown
from streamer.mounts.mount import Mount
from streamer.mounts.table import MountTable

_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)


@contextmanager
def mounted(table: MountTable, mount: Mount, *, shared: bool) -> Iterator[Tree]:
    """A tree read through a lease of its mount."""
    with table.lease(mount, shared=shared) as root:
        yield _Mounted(root, overlay=len(mount.layers) > 1, live=not shared)


@contextmanager
def opened(table: MountTable, layers: Sequence[bytes], *, shared: bool) -> Iterator[list[int]]:
    """A lease of each directory, in order. Only the topmost may be written meanwhile: all below are always shared."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(table.lease(Mount((layer,)), shared=shared or bool(number)))
            for number, layer in enumerate(layers)
        ]


class _Mounted:
    def __init__(self, root: int, *, overlay: bool, live: bool) -> None:
        self._root = root
        self._overlay = overlay
        self._live = live

    def status(self, path: bytes) -> os.stat_result:
        head, base = _split(path)
        parent = open_in_root(self._root, head or b".")
        try:
            return _looked_at(base, parent, path)
        finally:
            os.close(parent)

    def has(self, path: bytes) -> bool:
        with self.at(path) as node:
            return node is not None

    @contextmanager
    def at(self, path: bytes) -> Iterator[Node | None]:
        head, _, base = path.rpartition(b"/")
        try:
            parent = open_below(self._root, head or b".")
        except OSError as error:
            if error.errno not in _NOT_THERE:
                raise _not_seen(path, error) from error
            yield None
            return
        try:
            try:
                status = os.stat(base or b".", dir_fd=parent, follow_symlinks=False)
            except OSError as error:
                if error.errno not in _NOT_THERE:
                    raise _not_seen(path, error) from error
                yield None
                return
            yield Node(path, base or b".", parent, status)
        finally:
            os.close(parent)

    def holders(self, path: bytes) -> tuple[int, ...]:
        raise Unsupported("a mount does not tell which of its layers a file is in")

    def nodes(
        self,
        path: bytes = b"",
        *,
        select: Select | None = None,
        on_vanished: Vanished | None = None,
        after: bytes = b"",
    ) -> Generator[Node, None, None]:
        with self._above(path) as (above, base):
            told = self._told(above, on_vanished)
            yield from walk(above, start=base, select=select, on_vanished=told, after=after)

    @contextmanager
    def start(self, path: bytes = b"", *, on_vanished: Vanished | None = None) -> Iterator[Start | None]:
        with self._above(path) as (above, base), closing(walk(above, start=base)) as nodes, ExitStack() as stack:
            node = next(nodes)
            device, told = node.stat.st_dev, self._told(above, on_vanished)
            roots = (_opened(node, stack),) if stat.S_ISDIR(node.stat.st_mode) else ()

            def below(place: Place) -> Generator[Node, None, None]:
                return branch(place.parent, place.name, place.path, device, told)

            yield Start(node, roots, None, below, lambda: None)

    @contextmanager
    def _above(self, path: bytes) -> Iterator[tuple[int, bytes]]:
        """The directory that the path's last component is in, and that; the root and nothing for the root itself."""
        head, base = _split(path)
        if not base:
            yield self._root, b""
            return
        parent = open_in_root(self._root, head or b".")
        try:
            yield parent, base
        finally:
            os.close(parent)

    def _told(self, root: int, on_vanished: Vanished | None) -> Vanished | None:
        if on_vanished is None or not self._overlay:
            return on_vanished
        return unless_whiteout(root, on_vanished, live=self._live)


class Merged:
    """A tree read from its layers, which stay the caller's to close."""

    def __init__(self, layers: Layers) -> None:
        self._layers = layers
        self._stack = layers.stack

    @property
    def direct(self) -> bool:
        """Whether `start` is of use: whether the layers themselves can be walked."""
        root = self._stack.root
        return len(root) <= native.MOST_ROOTS and self._stack.simple(root, b"")

    def status(self, path: bytes) -> os.stat_result:
        head, base = _split(path)
        with closing(merge(self._stack, within=directory(self._stack, head), start=base)) as nodes:
            first = next(nodes, None)
        if first is None:
            raise NotFound(f"there is no '{shown(path)}' in this file system")
        return first.stat

    def has(self, path: bytes) -> bool:
        return self._layers.lookup(path) is not None

    @contextmanager
    def at(self, path: bytes) -> Iterator[Node | None]:
        found = self._layers.lookup(path)
        yield None if found is None else self._layers.node(found)

    def holders(self, path: bytes) -> tuple[int, ...]:
        return self._layers.holders(path)

    def nodes(
        self,
        path: bytes = b"",
        *,
        select: Select | None = None,
        on_vanished: Vanished | None = None,
        after: bytes = b"",
    ) -> Generator[Node, None, None]:
        head, base = _split(path)
        within = directory(self._stack, head)
        return merge(self._stack, within=within, start=base, select=select, on_vanished=on_vanished, after=after)

    @contextmanager
    def start(self, path: bytes = b"", *, on_vanished: Vanished | None = None) -> Iterator[Start | None]:
        head, base = _split(path)
        within = directory(self._stack, head)
        with (
            closing(merge(self._stack, within=within, start=base)) as nodes,
            closing(Branches(self._stack, within, on_vanished)) as branches,
            ExitStack() as stack,
        ):
            node = next(nodes, None)
            if node is None:
                raise NotFound(f"there is no '{shown(path)}' in this file system")
            roots: list[int] = []
            parts: Directory = ()
            if stat.S_ISDIR(node.stat.st_mode):
                parts = branches.directory(base)
                if not parts or not self._stack.simple(parts, base) or len(parts) > native.MOST_ROOTS:
                    yield None
                    return
                for part in parts:
                    roots.append(os.dup(self._stack.descriptor(part, base)))
                    stack.callback(os.close, roots[-1])

            def below(place: Place) -> Generator[Node, None, None]:
                return branches.nodes(place.path, parts[place.layer].layer)

            def settled() -> None:
                # Below the start the compiled walk sees to it by itself.
                if len(parts) > 1 and parts[0].layer == 0 and not self._stack.in_place(parts[0], base):
                    raise changed(base, "it was removed")

            yield Start(node, tuple(roots), self._stack.marks.prefix, below, settled)


def _split(path: bytes) -> tuple[bytes, bytes]:
    *head, base = [part for part in path.split(b"/") if part not in (b"", b".")] or [b""]
    return b"/".join(head), base


def _opened(node: Node, stack: ExitStack) -> int:
    """The directory that a node is, closed with the stack."""
    try:
        fd = open_directory(node.name, node.parent)
    except OSError as error:
        raise reading_failed(node.path, error) from None
    stack.callback(os.close, fd)
    if os.fstat(fd).st_ino != node.stat.st_ino:
        raise changed(node.path, "another directory has its name now")
    return fd


def _not_seen(path: bytes, error: OSError) -> SourceFailed:
    return SourceFailed(f"cannot look at '{shown(path)}': {error.strerror}")


def _looked_at(name: bytes, parent: int, path: bytes) -> os.stat_result:
    try:
        return os.stat(name or b".", dir_fd=parent, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(f"there is no '{shown(path)}' in this file system") from None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise name_too_long(path) from None
        raise _not_seen(path, error) from error
