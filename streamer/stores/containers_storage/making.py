"""Records of images, layers and containers from their lists' entries and what lies on disk."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from streamer.errors import StoreDamaged, Unsupported
from streamer.mounts.mount import Ids, Snapshot
from streamer.oci import digest as digests
from streamer.oci.config import Config
from streamer.oci.reference import Reference
from streamer.stores.base import Container, Hold, Image, Layer, Pair
from streamer.stores.containers_storage import guards, numbering
from streamer.stores.containers_storage.freezer import PodmanFreezer
from streamer.stores.containers_storage.places import Place
from streamer.stores.containers_storage.reading import Reader
from streamer.stores.containers_storage.records import ContainerRecord, LayerRecord
from streamer.stores.containers_storage.splits import Splits
from streamer.stores.containers_storage.status import status
from streamer.stores.containers_storage.trees import Forest, Kind, Tree


@dataclass(frozen=True, slots=True)
class Making:
    """`owner` numbers the owners on disk where the store belongs to an ordinary user. Stacks are topmost first."""

    store: str
    reader: Reader
    kind: Kind
    owner: Ids | None
    splits: Splits
    graphroot: Path
    runroot: Path | None
    forest: Forest = field(default_factory=Forest)

    @property
    def graph(self) -> Place:
        return self.reader.graph

    def image(self, config: Config, names: tuple[Reference, ...], stack: Sequence[LayerRecord]) -> Image:
        """StoreDamaged where the configuration does not tell of the same layers, or files are missing."""
        short = digests.short(config.id)
        if len(stack) != len(config.diff_ids):
            raise StoreDamaged(
                f"image {short} of store {self.store} has {len(config.diff_ids)} layers in its configuration "
                f"and {len(stack)} in {self.graph.list('layers')}"
            )
        trees = self.forest.trees(stack)
        layers: list[Layer] = []
        for number, (diff_id, chain_id) in enumerate(
            zip(config.diff_ids, digests.chain_ids(config.diff_ids), strict=True), 1
        ):
            record = stack[-number]
            if record.diff_id not in (None, diff_id):
                raise StoreDamaged(
                    f"layer {record.id[:12]} in {record.place.shown(record.place.list('layers'))} has another diff ID "
                    f"than the configuration of image {short}"
                )
            layers.append(self._layer(diff_id, chain_id, stack[-number:], trees[-number:]))
        return Image(self.store, config, names, tuple(layers))

    def layer(self, diff_id: str, chain_id: str, stack: Sequence[LayerRecord]) -> Layer:
        """StoreDamaged, NotPermitted where files are missing or closed."""
        return self._layer(diff_id, chain_id, stack, self.forest.trees(stack))

    def _layer(self, diff_id: str, chain_id: str, stack: Sequence[LayerRecord], trees: Sequence[Tree]) -> Layer:
        what = f"layer {digests.short(diff_id)} of store {self.store}"
        size, assemble = self.splits.of(stack[0], trees[0], what)
        refusal = _refusal(trees)
        ids = numbering.of_layers(stack[0], self.owner)
        return Layer(
            store=self.store,
            diff_id=diff_id,
            chain_id=chain_id,
            snapshot=None if refusal else self.kind.snapshot(trees, ids),
            parent=None if refusal else self._below(stack[1:], trees[1:]),
            size=size,
            assemble=assemble,
            guard=guards.of_layers(self.reader, stack, what),
            hold=_refused(f"the file system of {what} cannot be read: {refusal}") if refusal else None,
        )

    def container(
        self, container: ContainerRecord, image: str, image_name: str, stack: Sequence[LayerRecord]
    ) -> Container:
        """StoreDamaged, NotPermitted where files are missing or closed."""
        name = next(iter(container.names), container.id[:12])
        what = f"container {name} of store {self.store}"
        trees = self.forest.trees(stack)
        refusal = _refusal(trees)
        ids = self.owner
        try:
            ids = numbering.of_container(
                container,
                stack[0],
                stack[1] if stack[1:] else None,
                self.owner,
                shifting=self.kind.driver == "fuse-overlay",
            )
        except ValueError as error:
            refusal = refusal or str(error)
        return Container(
            store=self.store,
            id=container.id,
            name=name,
            image=image,
            image_name=image_name,
            created=container.created,
            snapshot=self.kind.snapshot(trees, ids, writable=True),
            parent=self._below(stack[1:], trees[1:]),
            status=status(container.id, self.graph, self.reader.run) if container.engine else "",
            guard=guards.of_container(self.reader, container, stack, what),
            hold=_refused(f"the file system of {what} cannot be read: {refusal}") if refusal else None,
            freezer=PodmanFreezer(self.graphroot, self.runroot, container.id) if container.engine else None,
        )

    def _below(self, stack: Sequence[LayerRecord], trees: Sequence[Tree]) -> Snapshot | None:
        return self.kind.snapshot(trees, numbering.of_layers(stack[0], self.owner)) if stack else None


def _refusal(trees: Sequence[Tree]) -> str:
    return next((each.refusal for each in trees if each.refusal), "")


def _refused(message: str) -> Hold:
    def hold() -> AbstractContextManager[Pair]:
        raise Unsupported(message)

    return hold
