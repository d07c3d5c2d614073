"""What a driver can do; drivers have no state, and what they give is decided by the snapshot alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Protocol, runtime_checkable

from streamer.changeset.change import Change
from streamer.mounts.mount import Mount, Snapshot
from streamer.mounts.table import MountTable


class Driver(Protocol):
    """Says what to mount. Nothing is opened and no path is looked at."""

    def mounts(self, snapshot: Snapshot) -> tuple[Mount, ...]:
        """What shows `snapshot` when it is leased: one mount with every driver of now. StoreDamaged if none can."""
        ...


@runtime_checkable
class DiffDriver(Driver, Protocol):
    """A driver that can tell changes without comparing two trees, for some pairs of snapshots."""

    def comparable(self, snapshot: Snapshot, parent: Snapshot | None) -> bool:
        """Whether `changes` can tell what `snapshot` adds to `parent` (None: to nothing). Nothing is opened."""
        ...

    def changes(
        self, table: MountTable, snapshot: Snapshot, parent: Snapshot | None
    ) -> AbstractContextManager[Iterator[Change]]:
        """The changes from `parent` to `snapshot` in the order of a walk, without the root; for comparable pairs only.

        What they are read from is leased from `table` for the `with` block, which also closes the iterator. Errors are
        those of `MountTable.lease` and of reading.
        """
        ...
