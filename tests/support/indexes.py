"""An index in memory, for what is true of every store that is read only."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from support import images

from streamer.errors import StoreDamaged
from streamer.mounts.mount import Snapshot
from streamer.oci import config as configs
from streamer.oci import reference as references
from streamer.oci.reference import Reference
from streamer.stores.base import Container, Image, Layer
from streamer.stores.index import IndexedStore


@dataclass
class MemoryIndex:
    """Images as `support.images` makes them; `broken` are IDs whose record cannot be made."""

    store: str = "memory"
    kept: dict[str, images.MadeImage] = field(default_factory=dict)
    names: dict[Reference, Collection[str]] = field(default_factory=dict)
    aliases: dict[str, Collection[str]] = field(default_factory=dict)
    containers: dict[str, Collection[str]] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)

    def add(self, made: images.MadeImage, *names: str) -> MemoryIndex:
        self.kept[made.id] = made
        for name in names:
            parsed = references.parse(name).tagged()
            self.names[parsed] = (*self.names.get(parsed, ()), made.id)
        return self

    @property
    def images(self) -> Collection[str]:
        return self.kept

    @property
    def layers(self) -> Mapping[str, str]:
        return {
            chain: diff
            for made in self.kept.values()
            for chain, diff in zip(images.chain_ids(made.diff_ids), made.diff_ids, strict=True)
        }

    def image(self, identity: str) -> Image:
        self._check(identity)
        made = self.kept[identity]
        names = tuple(name for name, ids in self.names.items() if identity in ids and name.tag is not None)
        layers = tuple(self.layer(chain) for chain in images.chain_ids(made.diff_ids))
        return Image(self.store, configs.parse(made.data), names, layers)

    def container(self, identity: str) -> Container:
        self._check(identity)
        name = next(iter(self.containers[identity]), identity[:12])
        return Container(self.store, identity, name, "", "", "", Snapshot("directory", (b"/",)), None)

    def layer(self, chain_id: str) -> Layer:
        self._check(chain_id)
        return Layer(self.store, self.layers[chain_id], chain_id)

    def _check(self, identity: str) -> None:
        if identity in self.broken:
            raise StoreDamaged(f"{identity}.json cannot be read")


def store(index: MemoryIndex, *, local_names: str | None = None) -> IndexedStore:
    async def read() -> MemoryIndex:
        return index

    return IndexedStore(index.store, f"{index.store}:/nowhere", read, local_names=local_names)
