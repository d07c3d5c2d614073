"""Snapshots written through fuse-overlayfs (`mount_program` of containers/storage): stacks that only user space reads.

It marks deletions in ways that the kernel's overlayfs would show as files.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager

from streamer.changeset.change import Change
from streamer.changeset.layers import Layers
from streamer.changeset.marks import trusted_visible
from streamer.changeset.overlay import changes as recorded
from streamer.changeset.vanishing import Vanished
from streamer.drivers import trees
from streamer.drivers.base import Tree
from streamer.drivers.overlay import is_one_layer
from streamer.errors import NotPermitted, Unsupported
from streamer.mounts.mount import Mount, Snapshot
from streamer.mounts.table import MountTable
from streamer.mounts.writeback import written_out


class FuseOverlayDriver:
    """Reads the layers; nothing is mounted and fuse-overlayfs need not be there.

    What is still to be written is written out once, before the first look: after a pause, if there is one.
    """

    def mounts(self, snapshot: Snapshot) -> tuple[Mount, ...]:
        """Never any: Unsupported."""
        raise Unsupported("a file system of fuse-overlayfs can only be compared with the one that it was laid on")

    @contextmanager
    def tree(
        self, table: MountTable, snapshot: Snapshot, *, shared: bool = False, unmounted: bool = False
    ) -> Iterator[Tree]:
        """See `Driver`."""
        if not snapshot.layers:
            with trees.mounted(table, Mount(()), shared=shared) as tree:
                yield tree
            return
        _settle(snapshot)
        with (
            trees.opened(table, snapshot.layers, shared=shared) as roots,
            Layers(roots, fuse=True) as layers,
        ):
            _check(roots)
            yield trees.Merged(layers)

    def comparable(self, snapshot: Snapshot, parent: Snapshot | None) -> bool:
        """Whether exactly one directory was laid on `parent`."""
        return is_one_layer(snapshot, parent)

    @contextmanager
    def changes(
        self, table: MountTable, snapshot: Snapshot, parent: Snapshot | None, *, on_vanished: Vanished | None = None
    ) -> Iterator[Iterator[Change]]:
        """The changes that the topmost directory records; see `DiffDriver.changes`."""
        _settle(snapshot)
        with ExitStack() as stack:
            roots = stack.enter_context(trees.opened(table, snapshot.layers, shared=snapshot.upper is None))
            _check(roots)
            below = stack.enter_context(Layers(roots[1:], fuse=True))
            yield stack.enter_context(
                closing(recorded(roots[0], parent=below, merged=None, fuse=True, on_vanished=on_vanished))
            )


def _settle(snapshot: Snapshot) -> None:
    """What a container wrote to files that it still has open may be known to its mount alone, so far: fuse-overlayfs
    runs with FUSE's writeback cache. containers/storage has the mount beside the directory that it writes to."""
    if snapshot.upper is not None:
        written_out(os.path.join(os.path.dirname(snapshot.upper), b"merged"), b"fuse.fuse-overlayfs")


def _check(roots: Sequence[int]) -> None:
    """Refuses what would be read wrongly: NotPermitted for layers of root with marks that this process does not see,
    Unsupported for layers whose files have their owners and modes in attributes (force_mask)."""
    hidden = len(roots) > 1 and not trusted_visible() and _in_initial_namespace()
    for root in roots:
        if hidden and os.fstat(root).st_uid == 0:
            raise NotPermitted(
                "what was deleted between these layers of root is recorded in attributes (trusted.overlay.*) that this "
                "process cannot see: this needs CAP_SYS_ADMIN"
            )
        if any(name.endswith(".override_stat") for name in os.listxattr(root)):
            raise Unsupported(
                "this file system was written with force_mask: its files' owners and modes are recorded in attributes, "
                "which are not read; export it with the engine"
            )


def _in_initial_namespace() -> bool:
    """Whether users are numbered as on the host; if not, what shows as root's was written by an ordinary user."""
    try:
        with open("/proc/self/uid_map", "rb") as file:
            return file.read().split() == [b"0", b"0", b"4294967295"]
    except OSError:
        return True
