"""Rows to the values that every store answers with (`stores.base`), each with its paths and its end check."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from streamer.mounts.attach import attached
from streamer.mounts.mount import Snapshot
from streamer.oci import config as configs
from streamer.oci import digest as digests
from streamer.stores.base import Container, Guard, Image, Layer
from streamer.stores.local.assemble import assembly, guard
from streamer.stores.local.catalog import ContainerRow, ImageRow, LayerRow
from streamer.stores.local.core import Core


def snapshot(core: Core, layers: Sequence[LayerRow], upper: bytes | None = None) -> Snapshot:
    """Of these layers (base first) with that writable directory on top."""
    lowers = tuple(core.state.layer(row.chain) + b"/diff" for row in reversed(layers))
    return Snapshot("overlay", lowers, upper, core.ownership.userxattr, core.ownership.owner)


def layer(core: Core, layers: Sequence[LayerRow]) -> Layer:
    """The topmost of these layers (base first)."""
    row, path = layers[-1], core.state.layer(layers[-1].chain)
    return Layer(
        store=core.name,
        diff_id=row.diff,
        chain_id=row.chain,
        snapshot=snapshot(core, layers),
        parent=snapshot(core, layers[:-1]) if len(layers) > 1 else None,
        size=row.size,
        assemble=assembly(path, row.diff),
        guard=_layer_guard(core, layers),
    )


def image(core: Core, row: ImageRow) -> Image:
    layers = tuple(layer(core, row.layers[: depth + 1]) for depth in range(len(row.layers)))
    return Image(core.name, configs.parse(row.data), row.names, layers)


def container(core: Core, row: ContainerRow) -> Container:
    path = core.state.container(row.id)
    guards = [guard(path, f"container {row.name}"), _layer_guard(core, row.layers)]
    return Container(
        store=core.name,
        id=row.id,
        name=row.name,
        image=row.config,
        image_name=row.image_name,
        created=row.created,
        snapshot=snapshot(core, row.layers, path + b"/upper"),
        parent=snapshot(core, row.layers) if row.layers else None,
        mounted=mount_point(row),
        guard=lambda: _all(guards),
    )


def mount_point(row: ContainerRow) -> str | None:
    """Where the container is mounted now: the row may have outlived its mount, by a restart of the machine."""
    return os.fsdecode(row.mounted) if row.mounted is not None and attached(row.mounted) else None


def _layer_guard(core: Core, layers: Sequence[LayerRow]) -> Guard:
    guards = [guard(core.state.layer(row.chain), f"layer {digests.short(row.diff)}") for row in layers]
    return lambda: _all(guards)


def _all(guards: Sequence[Guard]) -> None:
    for check in guards:
        check()


def merged(core: Core, row: ContainerRow) -> Path:
    """The container's own mount point."""
    return Path(os.fsdecode(core.state.container(row.id))) / "merged"
