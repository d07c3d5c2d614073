"""Snapshots that are whole file systems in one directory: an unpacked bundle, the vfs drivers, a tree someone made."""

from __future__ import annotations

from streamer.errors import StoreDamaged
from streamer.mounts.mount import Mount, Snapshot


class DirectoryDriver:
    """Reads the directory itself; changes are found by comparing two of them."""

    def mounts(self, snapshot: Snapshot) -> tuple[Mount, ...]:
        """One mount of the one directory; no directory at all is an empty file system."""
        if len(snapshot.layers) > 1:
            raise StoreDamaged(f"a snapshot of the directory driver is one directory, not {len(snapshot.layers)}")
        return (Mount(snapshot.layers, snapshot.userxattr),)
