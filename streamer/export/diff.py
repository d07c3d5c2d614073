"""What changed: a container against its image, or one layer against what lies below it, as a changeset archive.

From the overlay's own upper directory where that says it all (the driver's fast path), otherwise by comparing two
leased trees (Docker's naive diff).
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from streamer import drivers
from streamer.changeset.change import Change
from streamer.changeset.compare import compare
from streamer.drivers.base import DiffDriver
from streamer.errors import NotFound, shown
from streamer.export import subtree
from streamer.export.closing import closing
from streamer.export.items import Cursor, Item, Pass, Resume
from streamer.export.naming import stem
from streamer.export.pack import Packer
from streamer.export.pause import guarded
from streamer.export.plan import ExportPlan, Options, Session
from streamer.export.plan import Kind as ExportKind
from streamer.export.walked import Walked
from streamer.mounts.mount import Snapshot
from streamer.mounts.table import MountTable
from streamer.stores.base import Container, Hold


def plan_diff(container: Container, options: Options) -> ExportPlan:
    """The container's changes as a layer archive: apply it on the image and the container's file system results."""
    subtree.selection(options)
    title = f"changes of container {container.name} ({container.id[:12]}) of store {container.store}"
    source = walked(container.held, options, title)
    return ExportPlan(
        kind=ExportKind.DIFF,
        title=title,
        basename=stem(ExportKind.DIFF, [container.name]),
        store=container.store,
        chunks=guarded(container, title, options, source.chunks),
        compression=options.compression,
        outline=None if options.pause else lambda session, _: source.outline(container.guard, session),
        steady=container.steady,
    )


def plan_changes(container: Container) -> ExportPlan:
    """The container's changes as a JSON array of {path, kind} in the walk's order; kinds as letters A, C and D.

    A path that is not UTF-8 is shown with U+FFFD, and whole in `path_base64`.
    """
    return ExportPlan(
        kind=ExportKind.CHANGES,
        title=f"list of changes of container {container.name} ({container.id[:12]}) of store {container.store}",
        basename=stem(ExportKind.CHANGES, [container.name]),
        chunks=partial(_listed, container),
    )


def _listed(container: Container, session: Session) -> Iterator[bytes]:
    lines: list[bytes] = []
    waiting = 0
    opening = b"["
    with (
        container.held() as (snapshot, parent),
        changes(session, snapshot, parent) as found,
    ):
        for change in found:
            session.check()
            item = {"path": "/" + change.path.decode("utf-8", "replace"), "kind": change.kind.letter}
            if "\ufffd" in item["path"]:
                item["path_base64"] = base64.b64encode(b"/" + change.path).decode()
            lines.append(opening + json.dumps(item, ensure_ascii=False).encode())
            opening = b",\n"
            waiting += len(lines[-1])
            if waiting > 256 << 10:
                yield b"".join(lines)
                lines, waiting = [], 0
    if container.guard is not None:
        container.guard()
    yield b"".join(lines) + (b"]\n" if opening != b"[" else b"[]\n")


@contextmanager
def changes(session: Session, snapshot: Snapshot, parent: Snapshot | None) -> Iterator[Iterator[Change]]:
    """The changes from `parent` (None: from nothing) to `snapshot`, in the walk's order, while the block is open."""
    mounts = session.mounts
    driver = drivers.of(snapshot)
    if isinstance(driver, DiffDriver) and driver.comparable(snapshot, parent):
        # Only a container's own directory is ever written.
        vanished = subtree.vanishing(session, live=snapshot.upper is not None)
        with driver.changes(mounts, snapshot, parent, on_vanished=vanished) as found:
            yield found
        return
    (mount,) = driver.mounts(snapshot)
    with mounts.lease(mount) as new:
        if parent is None:
            with closing(compare(None, new)) as found:
                yield found
            return
        (below,) = drivers.of(parent).mounts(parent)
        with mounts.lease(below, shared=True) as old, closing(compare(old, new)) as found:
            yield found


def walked(held: Hold, options: Options, title: str) -> Walked:
    """The changes as a layer archive."""
    return Walked(partial(_opened, held, options), options, title)


@contextmanager
def _opened(held: Hold, options: Options, session: Session) -> Iterator[Pass]:
    with held() as (snapshot, parent):
        yield partial(_items, snapshot, parent, options, session)


def _items(
    snapshot: Snapshot,
    parent: Snapshot | None,
    options: Options,
    session: Session,
    cursor: Cursor,
    _resume: Resume | None,
) -> Iterator[Item]:
    # Only a container's own directory is ever written. Nothing here can be begun again in the middle.
    packer = Packer(options, session, cursor, ids=snapshot.ids, live=snapshot.upper is not None)
    empty = True
    with (
        changes(session, snapshot, parent) as found,
        closing(packer.changeset(subtree.narrowed(found, options))) as items,
    ):
        for item in items:
            empty = False
            yield item
    if options.path and empty:
        _require(options.path, snapshot, session.mounts)


def _require(path: bytes, snapshot: Snapshot, mounts: MountTable) -> None:
    """NotFound unless the snapshot has the path: nothing changed below it is an answer, a mistyped path is not."""
    with drivers.of(snapshot).tree(mounts, snapshot) as tree:
        if not tree.has(subtree.cleaned(path)):
            raise NotFound(f"there is no '{shown(path)}' in this file system, and nothing of it was deleted")
