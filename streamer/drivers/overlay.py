"""Snapshots as overlay file systems keep them: a stack of directories (Docker, containers/storage, the local store)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager

from streamer.changeset.change import Change
from streamer.changeset.layers import Layers
from streamer.changeset.overlay import changes as recorded
from streamer.mounts.mount import Mount, Snapshot
from streamer.mounts.table import MountTable


class OverlayDriver:
    """Mounts the stack; the changes of a snapshot to all that lies below its topmost directory are that directory."""

    def mounts(self, snapshot: Snapshot) -> tuple[Mount, ...]:
        """One read-only overlay of every directory. The upper of a running container is its topmost layer: a mount of
        ours over it never keeps the engine from starting or removing the container."""
        return (Mount(snapshot.layers, snapshot.userxattr),)

    def comparable(self, snapshot: Snapshot, parent: Snapshot | None) -> bool:
        """Whether exactly one directory was laid on `parent`: a container on its image, or one layer on those below."""
        if not snapshot.layers:
            return False
        if parent is None or not parent.layers:
            return len(snapshot.layers) == 1
        return (
            parent.driver == snapshot.driver
            and parent.userxattr == snapshot.userxattr
            and parent.layers == snapshot.layers[1:]
        )

    @contextmanager
    def changes(self, table: MountTable, snapshot: Snapshot, parent: Snapshot | None) -> Iterator[Iterator[Change]]:
        """The changes that the topmost directory records; see `DiffDriver.changes`.

        Unsupported, naming the path, for a renamed directory or a file whose data lies in a lower layer where this
        process may not mount: without these marks no privilege is needed but to read the files.
        """
        with ExitStack() as stack:
            # A directory that may be written again is never shared, nor what shows it.
            shared = snapshot.upper is None
            upper = stack.enter_context(table.lease(Mount(snapshot.layers[:1]), shared=shared))
            below = stack.enter_context(_below(table, snapshot, parent))
            merged = None
            whole = Mount(snapshot.layers, snapshot.userxattr)
            # Overlays with user marks never write redirects or metacopies, and would not follow them.
            if not snapshot.userxattr and table.possible(whole):
                merged = stack.enter_context(table.lease(whole, shared=shared))
            found = recorded(upper, parent=below, merged=merged, userxattr=snapshot.userxattr)
            yield stack.enter_context(closing(found))


@contextmanager
def _below(table: MountTable, snapshot: Snapshot, parent: Snapshot | None) -> Iterator[Layers]:
    """What changes are told from: one descriptor of the parent, mounted, or else of each of its directories."""
    layers = snapshot.layers[1:]
    # A parent with an upper of its own is a container below another: written while we read, so never shared.
    shared = parent is None or parent.upper is None
    whole = Mount(layers, snapshot.userxattr)
    parts: Sequence[Mount] = [whole] if layers and table.possible(whole) else [Mount((layer,)) for layer in layers]
    with ExitStack() as stack:
        directories = [stack.enter_context(table.lease(part, shared=shared)) for part in parts]
        yield stack.enter_context(Layers(directories, snapshot.userxattr))
