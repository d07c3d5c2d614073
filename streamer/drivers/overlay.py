"""Snapshots as overlay file systems keep them: a stack of directories (Docker, containers/storage, the local store)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

from streamer.changeset.change import Change
from streamer.changeset.layers import Layers
from streamer.changeset.marks import trusted_visible
from streamer.changeset.overlay import changes as recorded
from streamer.changeset.vanishing import Vanished
from streamer.drivers import trees
from streamer.drivers.base import Tree
from streamer.errors import NotPermitted
from streamer.mounts.mount import Mount, Snapshot
from streamer.mounts.table import MountTable


class OverlayDriver:
    """Mounts the stack, or reads it without a mount where this process may not; the changes of a snapshot to all that
    lies below its topmost directory are that directory."""

    def mounts(self, snapshot: Snapshot) -> tuple[Mount, ...]:
        """One read-only overlay of every directory. The upper of a running container is its topmost layer: a mount of
        ours over it never keeps the engine from starting or removing the container."""
        return (Mount(snapshot.layers, snapshot.userxattr),)

    @contextmanager
    def tree(
        self, table: MountTable, snapshot: Snapshot, *, shared: bool = False, unmounted: bool = False
    ) -> Iterator[Tree]:
        """See `Driver`. A single directory is not mounted either: its whiteouts would show, which a mount hides."""
        check_marks(snapshot)
        whole = Mount(snapshot.layers, snapshot.userxattr)
        mountable = len(whole.layers) > 1 and table.possible(whole)
        if whole.layers and (unmounted or not mountable):
            with (
                trees.opened(table, whole.layers, shared=shared) as roots,
                Layers(roots, snapshot.userxattr) as layers,
            ):
                tree = trees.Merged(layers)
                if not mountable or snapshot.userxattr or tree.direct:
                    yield tree
                    return
        with trees.mounted(table, whole, shared=shared) as mounted:
            yield mounted

    def comparable(self, snapshot: Snapshot, parent: Snapshot | None) -> bool:
        """Whether exactly one directory was laid on `parent`: a container on its image, or one layer on those below."""
        return is_one_layer(snapshot, parent)

    @contextmanager
    def changes(
        self, table: MountTable, snapshot: Snapshot, parent: Snapshot | None, *, on_vanished: Vanished | None = None
    ) -> Iterator[Iterator[Change]]:
        """The changes that the topmost directory records; see `DiffDriver.changes`.

        Renamed directories and files whose data lies in a lower layer are read through a mount of all where this
        process may mount, else from the layers. Unsupported, naming the path, where anybody can have written such marks
        (`userxattr`).
        """
        check_marks(snapshot)
        with ExitStack() as stack:
            # A directory that may be written again is never shared, nor what shows it.
            shared = snapshot.upper is None
            whole = Mount(snapshot.layers, snapshot.userxattr)
            possible = len(whole.layers) > 1 and table.possible(whole)
            upper, *lowers = stack.enter_context(
                trees.opened(table, snapshot.layers[: 1 if possible else None], shared=shared)
            )
            merged: int | Layers | None = None
            # Overlays with user marks never write redirects or metacopies, and would not follow them.
            if possible:
                # A parent with an upper of its own is a container below another: written while we read, never shared.
                below = Mount(snapshot.layers[1:], snapshot.userxattr)
                lowers = [stack.enter_context(table.lease(below, shared=parent is None or parent.upper is None))]
                if not snapshot.userxattr:
                    merged = stack.enter_context(table.lease(whole, shared=shared))
            elif not snapshot.userxattr:
                merged = stack.enter_context(Layers([upper, *lowers]))
            known = stack.enter_context(Layers(lowers, snapshot.userxattr))
            yield stack.enter_context(
                closing(
                    recorded(upper, parent=known, merged=merged, userxattr=snapshot.userxattr, on_vanished=on_vanished)
                )
            )


def is_one_layer(snapshot: Snapshot, parent: Snapshot | None) -> bool:
    """Whether the topmost directory of `snapshot` is all that it has above `parent`."""
    if not snapshot.layers:
        return False
    if parent is None or not parent.layers:
        return len(snapshot.layers) == 1
    return (
        parent.driver == snapshot.driver
        and parent.userxattr == snapshot.userxattr
        and parent.layers == snapshot.layers[1:]
    )


def check_marks(snapshot: Snapshot) -> None:
    """NotPermitted where this process would not see what the layers say of one another, and not notice either."""
    if len(snapshot.layers) > 1 and not snapshot.userxattr and not trusted_visible():
        raise NotPermitted(
            "what was deleted between these layers is recorded in attributes (trusted.overlay.*) that this process "
            "cannot see: this needs CAP_SYS_ADMIN"
        )
