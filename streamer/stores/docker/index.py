"""One reading of a data-root: names, images, containers and layers, and their records."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from streamer.errors import NotFound, NotPermitted, StoreDamaged
from streamer.oci import config as configs
from streamer.oci import digest as digests
from streamer.oci import media
from streamer.oci.reference import Reference
from streamer.stores.base import Container, Image, Layer
from streamer.stores.docker import containers
from streamer.stores.docker import names as namings
from streamer.stores.docker.containers import Containers, Freezers
from streamer.stores.docker.files import parsed
from streamer.stores.docker.layers import Layers, Measure
from streamer.stores.docker.names import Names, Unreadable
from streamer.stores.docker.root import DataRoot

_HEX = re.compile(r"[0-9a-f]{64}")


class DockerIndex:
    """The `Index` of what `root` holds now. What is just being made or removed is not in it."""

    def __init__(self, store: str, root: DataRoot, measure: Measure, freezers: Freezers) -> None:
        self._store = store
        self._root = root
        self._layers = Layers(store, root, measure)
        self._containers = Containers(store, root, self._layers, freezers)
        self._wrong: dict[str, StoreDamaged | NotPermitted] = {}
        self.images, self.names = self._read_images()
        self.aliases: Mapping[str, Collection[str]] = {}
        self._states = {
            identity: state
            for identity in root.files.names("containers")
            if _HEX.fullmatch(identity) and (state := containers.read(root, identity)) is not None
        }
        self.containers = {identity: state.names for identity, state in self._states.items()}
        self.layers = self._layers.diff_ids()
        self._names_of: dict[str, list[Reference]] = {}
        for name, (identity,) in self.names.items():
            if name.tag is not None:
                self._names_of.setdefault(identity, []).append(name)

    def image(self, identity: str) -> Image:
        if identity in self._wrong:
            raise self._wrong[identity]
        try:
            return self._image(identity)
        except StoreDamaged:
            self._read_config(identity)  # gone meanwhile, and then its layers as well
            raise

    def container(self, identity: str) -> Container:
        return self._containers.container(identity, self._states[identity])

    def layer(self, chain_id: str) -> Layer:
        return self._layers.layer(chain_id)

    def _image(self, identity: str) -> Image:
        place, data = self._place(identity), self._read_config(identity)
        config = parsed(lambda: configs.parse(data, place))
        if config.id != identity:
            raise StoreDamaged(f"{place} has another digest than its name says")
        names = tuple(self._names_of.get(identity, ()))
        return Image(self._store, config, names, self._layers.image(config.diff_ids))

    def _read_config(self, identity: str) -> bytes:
        data = self._root.files.data(self._place(identity), media.MAX_CONFIG)
        if data is None:
            raise NotFound(f"image {digests.short(identity)} was removed from store {self._store}")
        return data

    def _place(self, identity: str) -> str:
        return f"{self._root.metadata}/imagedb/content/sha256/{digests.encoded(identity)}"

    def _read_images(self) -> tuple[set[str], Names]:
        """Every image ID and every name; what cannot be read is among the images as something wrong."""
        root, repositories = self._root, namings.place(self._root)
        names: Names
        try:
            # Names come after their images and go before them: read first, none leads to an image not there yet.
            names = namings.read(root)
            images = self._listed()
            if not images.issuperset(identity for (identity,) in names.values()):
                again = namings.read(root)
                names = {name: ids for name, ids in names.items() if again.get(name) == ids}
        except (StoreDamaged, NotPermitted) as error:
            images = self._listed()
            self._wrong[repositories] = error
            return images | {repositories}, Unreadable(error, images)
        for identity in {identity for (identity,) in names.values()} - images:
            self._wrong[identity] = StoreDamaged(
                f"{repositories} names something that is not an image ID"
                if identity == repositories
                else f"{self._place(identity)} is missing"
            )
        return images | set(self._wrong), names

    def _listed(self) -> set[str]:
        place = f"{self._root.metadata}/imagedb/content/sha256"
        return {f"sha256:{each}" for each in self._root.files.names(place) if _HEX.fullmatch(each)}
