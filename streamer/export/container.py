"""Whole file systems: what a container sees, and what an image's layers add up to (`rootfs`)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from streamer import drivers
from streamer.export import subtree
from streamer.export.items import Pass
from streamer.export.naming import stem
from streamer.export.pause import guarded
from streamer.export.plan import ExportPlan, Kind, Options, Session
from streamer.export.runs import items, plain
from streamer.export.walked import Walked
from streamer.oci import digest as digests
from streamer.stores.base import Container, Hold, Image


def plan_container(container: Container, options: Options) -> ExportPlan:
    """The container's whole file system as it is now: no volumes, no /proc, sockets left out."""
    subtree.selection(options)
    title = f"container {container.name} ({container.id[:12]}) of store {container.store}"
    # A container may change: its file system is mounted afresh for this stream, and never shared.
    source = Walked(partial(_opened, container.held, options, True), options, title)
    return ExportPlan(
        kind=Kind.CONTAINER,
        title=title,
        basename=stem(Kind.CONTAINER, [container.name]),
        store=container.store,
        chunks=guarded(container, title, options, source.chunks),
        compression=options.compression,
        outline=None if options.pause else lambda session, _: source.outline(container.guard, session),
        steady=container.steady,
    )


def plan_rootfs(image: Image, name: str, options: Options) -> ExportPlan:
    """The image's layers flattened into one file system."""
    subtree.selection(options)
    top = image.layers[-1] if image.layers else None
    if top is not None and top.hold is None:
        top.held()  # says so now if the store keeps no file system
    title = f"root file system of image {name} ({digests.short(image.id)}) of store {image.store}"
    source = Walked(partial(_opened, top.held if top else None, options, False), options, title)
    guard = top.guard if top else None  # the topmost layer's end check covers all below it
    return ExportPlan(
        kind=Kind.ROOTFS,
        title=title,
        basename=stem(Kind.ROOTFS, [name]),
        store=image.store,
        chunks=partial(source.chunks, guard),
        compression=options.compression,
        outline=lambda session, _: source.outline(guard, session),
    )


@contextmanager
def _opened(held: Hold | None, options: Options, live: bool, session: Session) -> Iterator[Pass]:
    if held is None:  # an image without layers: an archive without entries
        yield lambda cursor, resume: iter(())
        return
    with (
        held() as (snapshot, _),
        drivers.of(snapshot).tree(
            session.mounts, snapshot, shared=not live, unmounted=plain(options, snapshot.ids)
        ) as tree,
    ):
        yield lambda cursor, resume: items(tree, options, session, cursor, resume, ids=snapshot.ids, live=live)
