"""What a driver can do; drivers have no state, and what they give is decided by the snapshot alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from streamer.changeset.change import Change, Node
from streamer.changeset.walk import Select
from streamer.mounts.mount import Mount, Snapshot
from streamer.mounts.table import MountTable


@dataclass(frozen=True, slots=True)
class Place:
    """Something that a walk came by: `name` in the directory `parent`, a descriptor, which lies below the root
    of that number. `path` is as the walk has it."""

    path: bytes
    name: bytes
    parent: int
    layer: int


@dataclass(frozen=True, slots=True)
class Start:
    """Where a walk begins that reads directories by itself: `node`, and what shows everything below it.

    `roots` are descriptors, valid in the block that gave this: one directory, or the layers of one, topmost first; then
    `marks` is what overlay attributes begin with. All are of one file system. Empty if the node is no directory.
    `nodes` gives what lies at a place and below it, as the walk of the tree would. `settled` is called once the names
    in the roots were listed: SourceChanged if they may be those of a directory that is being removed.
    """

    node: Node
    roots: tuple[int, ...]
    marks: str | None
    nodes: Callable[[Place], Generator[Node, None, None]]
    settled: Callable[[], None]


class Tree(Protocol):
    """A whole file system to be read, mounted or not. Valid within the block that gave it, in one thread.

    A path is found as a chroot would find it, except that a symbolic link at its very end is taken as itself; it does
    not end in `..`. NotFound, InvalidRequest (a name that is too long, links in circles).
    """

    def status(self, path: bytes) -> os.stat_result:
        """What lies at the path."""
        ...

    def has(self, path: bytes) -> bool:
        """Whether something lies at the path (clean, relative), links on the way not followed."""
        ...

    def at(self, path: bytes) -> AbstractContextManager[Node | None]:
        """What lies at the path (as for `has`) while the block is open, in which nothing else may be asked for."""
        ...

    def holders(self, path: bytes) -> tuple[int, ...]:
        """The layers, as nodes count them, that add to the directory at the path (as for `has`), topmost first.
        Unsupported where the tree is not read from its layers."""
        ...

    def nodes(
        self,
        path: bytes = b"",
        *,
        select: Select | None = None,
        on_vanished: Callable[[bytes], None] | None = None,
        after: bytes = b"",
    ) -> Generator[Node, None, None]:
        """What lies at the path and all below it, as `walk`; the names begin with the path's last component."""
        ...

    def start(
        self, path: bytes = b"", *, on_vanished: Callable[[bytes], None] | None = None
    ) -> AbstractContextManager[Start | None]:
        """Where the walk of `nodes` begins, while the block is open; None where only that can tell what is there."""
        ...


class Driver(Protocol):
    """Turns snapshots into what can be read."""

    def mounts(self, snapshot: Snapshot) -> tuple[Mount, ...]:
        """What shows `snapshot` when it is leased: one mount with every driver of now. Nothing is opened and no path is
        looked at. StoreDamaged if none can, Unsupported where the kernel cannot."""
        ...

    def tree(
        self, table: MountTable, snapshot: Snapshot, *, shared: bool = False, unmounted: bool = False
    ) -> AbstractContextManager[Tree]:
        """The file system, leased from `table` for the `with` block: `shared` for what is never written again.

        `unmounted` says that it will be read from `Tree.start`, which is faster on the layers themselves; those of an
        ordinary user are never mounted then.
        Errors are those of `MountTable.lease` and of reading; NotPermitted where this process could not see all.
        """
        ...


@runtime_checkable
class DiffDriver(Driver, Protocol):
    """A driver that can tell changes without comparing two trees, for some pairs of snapshots."""

    def comparable(self, snapshot: Snapshot, parent: Snapshot | None) -> bool:
        """Whether `changes` can tell what `snapshot` adds to `parent` (None: to nothing). Nothing is opened."""
        ...

    def changes(
        self,
        table: MountTable,
        snapshot: Snapshot,
        parent: Snapshot | None,
        *,
        on_vanished: Callable[[bytes], None] | None = None,
    ) -> AbstractContextManager[Iterator[Change]]:
        """The changes from `parent` to `snapshot` in the order of a walk, without the root; for comparable pairs only.

        What they are read from is leased from `table` for the `with` block, which also closes the iterator. Errors are
        those of `MountTable.lease` and of reading. `on_vanished` is told what is gone before it was yielded.
        """
        ...
