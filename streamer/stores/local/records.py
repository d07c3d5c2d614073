"""Rows to the values that every store answers with (`stores.base`), each with its paths and its end check."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from streamer.errors import StoreDamaged
from streamer.mounts.attach import attached
from streamer.mounts.mount import Snapshot
from streamer.oci import config as configs
from streamer.oci import digest as digests
from streamer.stores.assembly import directory_guard
from streamer.stores.base import Container, Guard, Image, Layer
from streamer.stores.local.assemble import assembly
from streamer.stores.local.catalog import ContainerRow, ImageRow, LayerRow
from streamer.stores.local.core import Core
from streamer.stores.local.headers import headers


class Records:
    """Makes the records of one answer. A layer's directory is looked at once, however many of them stand on it."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._layers: dict[str, tuple[bytes, Guard]] = {}
        self._attached: dict[bytes, list[bytes]] | None = None

    def images(self, rows: Sequence[ImageRow]) -> tuple[Image, ...]:
        return tuple(self.image(row) for row in rows)

    def image(self, row: ImageRow) -> Image:
        stack = self._stack(row.layers)
        config = configs.parse(row.data)
        if len(row.layers) != len(config.diff_ids):
            raise StoreDamaged(
                f"image {digests.short(row.id)} of store {self._core.name} has {len(config.diff_ids)} layers, of which"
                f" its database knows {len(row.layers)}"
            )
        layers = tuple(self._layer(layer, stack[: depth + 1]) for depth, layer in enumerate(row.layers))
        return Image(self._core.name, config, row.names, layers)

    def layers(self, stacks: Sequence[Sequence[LayerRow]]) -> tuple[Layer, ...]:
        return tuple(self.layer(rows) for rows in stacks)

    def layer(self, rows: Sequence[LayerRow]) -> Layer:
        """The topmost of these layers (base first)."""
        return self._layer(rows[-1], self._stack(rows))

    def containers(self, rows: Sequence[ContainerRow]) -> tuple[Container, ...]:
        return tuple(self.container(row) for row in rows)

    def container(self, row: ContainerRow) -> Container:
        stack = self._stack(row.layers)
        upper = self._core.state.container(row.id) + b"/upper"
        return Container(
            store=self._core.name,
            id=row.id,
            name=row.name,
            image=row.config,
            image_name=row.image_name,
            created=row.created,
            snapshot=self._snapshot(stack, upper),
            parent=self._snapshot(stack) if stack else None,
            mounted=self._mount_point(row),
            guard=partial(_all, (directory_guard(upper, f"container {row.name}"), *(check for _, check in stack))),
        )

    def _mount_point(self, row: ContainerRow) -> str | None:
        if self._attached is None:
            self._attached = attached()
        points = self._attached.get(source(self._core, row))
        return os.fsdecode(points[0]) if points else None

    def _stack(self, rows: Sequence[LayerRow]) -> tuple[tuple[bytes, Guard], ...]:
        """Tree and end check of each layer, in their order."""
        for row in rows:
            if row.chain not in self._layers:
                diff = self._core.state.layer(row.chain) + b"/diff"
                self._layers[row.chain] = diff, directory_guard(diff, f"layer {digests.short(row.diff)}")
        return tuple(self._layers[row.chain] for row in rows)

    def _layer(self, row: LayerRow, stack: tuple[tuple[bytes, Guard], ...]) -> Layer:
        """The layer of that row, which is the topmost of the stack."""
        folder, name = self._core.state.layer(row.chain), self._core.name
        return Layer(
            store=name,
            diff_id=row.diff,
            chain_id=row.chain,
            snapshot=self._snapshot(stack),
            parent=self._snapshot(stack[:-1]) if len(stack) > 1 else None,
            size=row.size,
            assemble=assembly(folder, row.diff, name),
            headers=partial(headers, folder, row.diff, name) if self._core.ownership.owner is not None else None,
            guard=partial(_all, tuple(check for _, check in stack)),
        )

    def _snapshot(self, stack: Sequence[tuple[bytes, Guard]], upper: bytes | None = None) -> Snapshot:
        """Of these layers with that writable directory on top."""
        ownership = self._core.ownership
        return Snapshot(
            "overlay", tuple(diff for diff, _ in reversed(stack)), upper, ownership.userxattr, ownership.ids
        )


def source(core: Core, row: ContainerRow) -> bytes:
    """What the mount of a container is called in the kernel's table, in which it is looked up: no note of ours would
    outlive a restart, follow a store that was moved, or know what else was mounted in its place. The same container of
    a store that was copied has another upper, and so another name."""
    try:
        upper = os.stat(core.state.container(row.id) + b"/upper", follow_symlinks=False)
    except FileNotFoundError:
        return b"streamer:" + row.id.encode()
    return b"streamer:%s:%d-%d" % (row.id.encode(), upper.st_dev, upper.st_ino)


def merged(core: Core, row: ContainerRow) -> Path:
    """The container's own mount point."""
    return Path(os.fsdecode(core.state.container(row.id))) / "merged"


def _all(guards: Sequence[Guard]) -> None:
    for check in guards:
        check()
