"""Snapshots that are whole file systems in one directory: an unpacked bundle, the vfs drivers, a tree someone made."""

from __future__ import annotations

from contextlib import AbstractContextManager

from streamer.drivers import trees
from streamer.drivers.base import Tree
from streamer.errors import StoreDamaged
from streamer.mounts.mount import Mount, Snapshot
from streamer.mounts.table import MountTable


class DirectoryDriver:
    """Reads the directory itself; changes are found by comparing two of them."""

    def mounts(self, snapshot: Snapshot) -> tuple[Mount, ...]:
        """One mount of the one directory; no directory at all is an empty file system."""
        if len(snapshot.layers) > 1:
            raise StoreDamaged(f"a snapshot of the directory driver is one directory, not {len(snapshot.layers)}")
        return (Mount(snapshot.layers, snapshot.userxattr),)

    def tree(
        self, table: MountTable, snapshot: Snapshot, *, shared: bool = False, unmounted: bool = False
    ) -> AbstractContextManager[Tree]:
        """The directory itself."""
        (mount,) = self.mounts(snapshot)
        return trees.mounted(table, mount, shared=shared)
