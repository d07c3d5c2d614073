"""Whole file systems: what a container sees, and what an image's layers add up to (`rootfs`)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from streamer import drivers
from streamer.export import subtree
from streamer.export.closing import closing
from streamer.export.naming import basename
from streamer.export.pack import Packer
from streamer.export.plan import ExportPlan, Kind, Options, Session
from streamer.mounts.mount import Snapshot
from streamer.oci import digest as digests
from streamer.stores.base import Container, Guard, Image
from streamer.tar.entry import Member
from streamer.tar.writer import archive


def plan_container(container: Container, options: Options) -> ExportPlan:
    """The container's whole file system as it is now: no volumes, no /proc, sockets left out."""
    subtree.selection(options)
    return ExportPlan(
        kind=Kind.CONTAINER,
        title=f"container {container.name} ({container.id[:12]}) of store {container.store}",
        basename=basename(container.name),
        # A container may change: its file system is mounted afresh for this stream, and never shared.
        chunks=partial(_chunks, container.snapshot, container.guard, options, True),
        compression=options.compression,
    )


def plan_rootfs(image: Image, name: str, options: Options) -> ExportPlan:
    """The image's layers flattened into one file system."""
    subtree.selection(options)
    snapshot = image.layers[-1].snapshot if image.layers else None
    return ExportPlan(
        kind=Kind.ROOTFS,
        title=f"root file system of image {name} ({digests.short(image.id)}) of store {image.store}",
        basename=basename(name) + "-rootfs",
        # The topmost layer's end check covers all below it.
        chunks=partial(_chunks, snapshot, image.layers[-1].guard if image.layers else None, options, False),
        compression=options.compression,
    )


def _chunks(
    snapshot: Snapshot | None, guard: Guard | None, options: Options, live: bool, session: Session
) -> Iterator[bytes]:
    if snapshot is None:  # an image without layers: an archive without entries
        yield from archive(iter(()), options.profile)
        return
    (mount,) = drivers.of(snapshot).mounts(snapshot)
    with (
        session.mounts.lease(mount, shared=not live) as root,
        closing(archive(_members(root, snapshot, guard, options, live, session), options.profile)) as chunks,
    ):
        yield from chunks


def _members(
    root: int, snapshot: Snapshot, guard: Guard | None, options: Options, live: bool, session: Session
) -> Iterator[Member]:
    packer = Packer(options, session, owner=snapshot.owner, live=live)
    with closing(packer.tree(subtree.nodes(root, options, session, live=live))) as members:
        yield from members
    if guard is not None:
        guard()
