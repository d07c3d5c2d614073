"""Containers: an overlay upper each, made from an image, mounted so that a person can change it, removed."""

from __future__ import annotations

import contextlib
import os
import secrets
from functools import partial
from pathlib import Path

import anyio
from anyio import to_thread

from streamer.errors import Conflict, NotFound
from streamer.mounts.attach import attach_overlay, attached, attached_elsewhere, detach
from streamer.oci import digest as digests
from streamer.stores.base import Container
from streamer.stores.local import catalog, lookup, records
from streamer.stores.local import state as states
from streamer.stores.local.catalog import ContainerRow, ImageRow
from streamer.stores.local.core import Core
from streamer.stores.local.ingest import now
from streamer.stores.local.records import Records
from streamer.stores.local.removal import collect
from streamer.stores.local.staging import Staging
from streamer.stores.local.unpack import copy_root

_EMPTY = "empty"
"""A directory beside the upper: an overlay needs a lower layer even where the image has none."""
_UNDO = 30
"""Seconds that undoing a half-done change may take when the caller is being cancelled."""


async def create(core: Core, reference: str, name: str | None) -> Container:
    identity = secrets.token_hex(32)
    chosen = lookup.container_name(name) if name is not None else identity[:12]
    async with core.database.read() as transaction:
        image = await lookup.image(transaction, reference, core.name)
        given = await lookup.image_name(transaction, reference)
    async with core.staging() as staging:
        await to_thread.run_sync(_make, core, staging, image, limiter=core.rest)
        row = ContainerRow(
            identity, chosen, image.id, image.data, given.familiar if given else image.id, now(), image.layers
        )
        async with core.exclusive():
            try:
                async with core.database.write() as transaction:
                    if await catalog.image(transaction, image.id) is None:
                        raise NotFound(f"image {reference!r} was removed meanwhile")
                    await catalog.add_container(transaction, row)
                    # Moved inside the transaction, committed after: no row without a directory.
                    await to_thread.run_sync(staging.publish, "container", "containers", identity, limiter=core.changes)
            except BaseException:
                core.state.discard("containers", identity)
                raise
    return await to_thread.run_sync(Records(core).container, row, limiter=core.lookups)


def _make(core: Core, staging: Staging, image: ImageRow) -> None:
    with contextlib.ExitStack() as stack, states.storage("the container"):
        folder = staging.folder("container")
        stack.callback(os.close, folder)
        for name in ("work", "merged", _EMPTY):
            os.mkdir(name, 0o700, dir_fd=folder)
        os.mkdir("upper", 0o755, dir_fd=folder)
        upper = os.open("upper", states.DIRECTORY, dir_fd=folder)
        stack.callback(os.close, upper)
        top = None
        if image.layers:
            top = _opened_layer(core, image.layers[-1].chain)
            stack.callback(os.close, top)
        copy_root(top, upper, core.ownership)
        staging.settle()


def _opened_layer(core: Core, chain: str) -> int:
    try:
        return os.open(core.state.layer(chain) + b"/diff", states.DIRECTORY)
    except FileNotFoundError:
        raise NotFound(f"layer {digests.short(chain)} was removed from the store") from None


async def mount(core: Core, reference: str, target: Path | None) -> Path:
    """Mounts the container, writable, at `target` or at its own mount point; it stays until `unmount`."""
    core.check_writable()
    async with core.exclusive():
        async with core.database.read() as transaction:
            row = await lookup.container(transaction, reference, core.name)
        # Not `resolve`: what the person wrote is what is mounted at, and what `ls` shows.
        place = Path(os.path.abspath(target)) if target is not None else records.merged(core, row)  # noqa: ASYNC240
        mounted = False

        def attach() -> None:
            nonlocal mounted
            before = _mounted(core, row)
            if before:
                raise Conflict(f"container {row.name} is mounted{_where(core, row, before[0])} already")
            if target is not None:
                _require_outside(core, place)
                _require_empty(place)
            _attach(core, row, os.fsencode(place))
            mounted = True

        try:
            await to_thread.run_sync(attach, limiter=core.changes)
        except BaseException:
            if mounted:  # cancelled: the thread was waited for, and had mounted it
                with anyio.move_on_after(_UNDO, shield=True):
                    undo = partial(detach, records.source(core, row), os.fsencode(place), lazy=True)
                    await to_thread.run_sync(undo, limiter=core.changes)
            raise
    return place


def _mounted(core: Core, row: ContainerRow, *, force: bool = False) -> list[bytes]:
    """Where it is mounted: the mount itself first, then what somebody has bound elsewhere.

    Conflict, unless by force, if only another mount namespace has it: it cannot be unmounted there from here, and a
    second mount would ruin what it holds.
    """
    source = records.source(core, row)
    points = attached().get(source, [])
    if not points and not force and (process := attached_elsewhere(source)) is not None:
        raise Conflict(
            f"container {row.name} is mounted in another mount namespace (of process {process}): unmount it there, or "
            "end that process"
        )
    return points


def _require_outside(core: Core, directory: Path) -> None:
    """What lies in the store's own directories is the store's to delete."""
    if Path(os.path.realpath(directory)).is_relative_to(core.state.path):
        raise Conflict(f"directory {directory} is inside of the store: mount the container elsewhere")


def _require_empty(directory: Path) -> None:
    """A mount hides what lies below it, so a mistyped directory must not be mounted over."""
    try:
        occupied = bool(os.listdir(directory))
    except OSError:
        return  # mounting says what is wrong with it
    if occupied:
        raise Conflict(f"directory {directory} is not empty: mounting there would hide what it holds")


def _where(core: Core, row: ContainerRow, point: bytes) -> str:
    """Where it is mounted, for messages: nothing for its own mount point, which lies inside of the store."""
    return "" if point == os.fsencode(records.merged(core, row)) else f" at {os.fsdecode(point)}"


def _attach(core: Core, row: ContainerRow, target: bytes) -> None:
    with contextlib.ExitStack() as stack:

        def opened(path: bytes) -> int:
            fd = os.open(path, states.DIRECTORY)
            stack.callback(os.close, fd)
            return fd

        def lower(chain: str) -> int:
            fd = _opened_layer(core, chain)
            stack.callback(os.close, fd)
            return fd

        path = core.state.container(row.id)
        lowers = [lower(layer.chain) for layer in reversed(row.layers)]
        lowers = lowers or [opened(path + b"/" + _EMPTY.encode())]
        attach_overlay(
            records.source(core, row),
            lowers,
            opened(path + b"/upper"),
            opened(path + b"/work"),
            target,
            userxattr=core.ownership.userxattr,
        )


async def unmount(core: Core, reference: str) -> None:
    core.check_writable()
    async with core.exclusive():
        async with core.database.read() as transaction:
            row = await lookup.container(transaction, reference, core.name)
        points = await to_thread.run_sync(_mounted, core, row, limiter=core.changes)
        if not points:
            raise Conflict(f"container {row.name} is not mounted")
        point = points[0]
        try:
            await to_thread.run_sync(detach, records.source(core, row), point, limiter=core.changes)
        except Conflict:
            raise Conflict(
                f"container {row.name} is in use{_where(core, row, point)}: close what has files open there, then "
                "unmount it"
            ) from None


async def remove(core: Core, reference: str, force: bool) -> None:
    core.check_writable()
    async with core.exclusive():
        async with core.database.read() as transaction:
            row = await lookup.container(transaction, reference, core.name)
        points = await to_thread.run_sync(partial(_mounted, core, row, force=force), limiter=core.changes)
        if points and not force:
            raise Conflict(f"container {row.name} is mounted{_where(core, row, points[0])}: unmount it, or force it")
        for point in reversed(points):
            # Lazily: who still has files open there keeps them until he closes them, as after any removal.
            undone = partial(detach, records.source(core, row), point, lazy=True)
            await to_thread.run_sync(undone, limiter=core.changes)
        with core.state.doomed(row.id):
            async with core.database.write() as transaction:
                await catalog.forget_container(transaction, row.id, row.config)
        core.state.discard("containers", row.id)
        await collect(core)
    await to_thread.run_sync(core.state.empty_trash, limiter=core.rest)
