"""Whole file systems: what a container sees, and what an image's layers add up to (`rootfs`)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import partial

from streamer import drivers
from streamer.drivers.base import Tree
from streamer.export import subtree
from streamer.export.closing import closing
from streamer.export.naming import basename
from streamer.export.pack import Packer
from streamer.export.pause import guarded
from streamer.export.plan import ExportPlan, Kind, Options, Session
from streamer.mounts.mount import Snapshot
from streamer.oci import digest as digests
from streamer.stores.base import Container, Guard, Hold, Image
from streamer.tar.entry import Member
from streamer.tar.writer import archive


def plan_container(container: Container, options: Options) -> ExportPlan:
    """The container's whole file system as it is now: no volumes, no /proc, sockets left out."""
    subtree.selection(options)
    title = f"container {container.name} ({container.id[:12]}) of store {container.store}"
    return ExportPlan(
        kind=Kind.CONTAINER,
        title=title,
        basename=basename(container.name),
        # A container may change: its file system is mounted afresh for this stream, and never shared.
        chunks=guarded(
            container, title, options, lambda guard, session: _chunks(container.held, guard, options, True, session)
        ),
        compression=options.compression,
    )


def plan_rootfs(image: Image, name: str, options: Options) -> ExportPlan:
    """The image's layers flattened into one file system."""
    subtree.selection(options)
    top = image.layers[-1] if image.layers else None
    if top is not None and top.hold is None:
        top.held()  # says so now if the store keeps no file system
    return ExportPlan(
        kind=Kind.ROOTFS,
        title=f"root file system of image {name} ({digests.short(image.id)}) of store {image.store}",
        basename=basename(name) + "-rootfs",
        # The topmost layer's end check covers all below it.
        chunks=partial(_chunks, top.held if top else None, top.guard if top else None, options, False),
        compression=options.compression,
    )


def _chunks(held: Hold | None, guard: Guard | None, options: Options, live: bool, session: Session) -> Iterator[bytes]:
    if held is None:  # an image without layers: an archive without entries
        yield from archive(iter(()), options.profile)
        return
    with (
        held() as (snapshot, _),
        _leased(snapshot, live, session) as tree,
        closing(archive(_members(tree, snapshot, guard, options, live, session), options.profile)) as chunks,
    ):
        yield from chunks


def _leased(snapshot: Snapshot, live: bool, session: Session) -> AbstractContextManager[Tree]:
    return drivers.of(snapshot).tree(session.mounts, snapshot, shared=not live)


def _members(
    tree: Tree, snapshot: Snapshot, guard: Guard | None, options: Options, live: bool, session: Session
) -> Iterator[Member]:
    packer = Packer(options, session, ids=snapshot.ids, live=live)
    with closing(packer.tree(subtree.nodes(tree, options, session, live=live))) as members:
        yield from members
    if guard is not None:
        guard()
