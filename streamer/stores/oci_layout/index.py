"""A layout's images and layers as records, each looked at when it is made."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from streamer.errors import NotFound, StreamerError, Unsupported
from streamer.oci import config as configs
from streamer.oci import digest as digests
from streamer.oci import layout, media
from streamer.oci.descriptor import Descriptor
from streamer.oci.reference import Reference
from streamer.stores import blobs
from streamer.stores.base import Container, Image, Layer, Reading
from streamer.stores.oci_layout.directory import Directory, Missing, told
from streamer.stores.oci_layout.reading import Found, FoundImage


@dataclass(frozen=True, slots=True)
class _Place:
    """A layer as one manifest names it."""

    descriptor: Descriptor
    diff_id: str
    chain_id: str


class LayoutIndex:
    """`stores.index.Index` of one reading. Images are listed whose layers are not all there: the others can be given,
    and an image's metadata is worth something without them."""

    def __init__(self, store: str, directory: Directory, found: Found) -> None:
        self._store = store
        self._directory = directory
        self._found = found
        self._places: dict[str, list[_Place]] = {}
        for manifests in found.images.values():
            for each in manifests:
                for place in _places(each):
                    self._places.setdefault(place.chain_id, []).append(place)

    @property
    def names(self) -> Mapping[Reference, Collection[str]]:
        return self._found.names

    @property
    def images(self) -> Collection[str]:
        return [*self._found.images, *self._found.damaged]

    @property
    def aliases(self) -> Mapping[str, Collection[str]]:
        return self._found.aliases

    @property
    def containers(self) -> Mapping[str, Collection[str]]:
        return {}

    @property
    def layers(self) -> Mapping[str, str]:
        return {chain_id: places[0].diff_id for chain_id, places in self._places.items()}

    def image(self, identity: str) -> Image:
        damage = self._found.damaged.get(identity)
        if damage is not None:
            raise damage
        first: Image | None = None
        for each in self._found.images[identity]:
            made = self._image(each)
            if made.manifest is not None:
                return made
            first = first or made
        assert first is not None
        return first

    def container(self, identity: str) -> Container:
        raise NotFound(f"there is no container {identity!r} in store {self._store}: a layout has none")

    def layer(self, chain_id: str) -> Layer:
        """Of several blobs of the same layer the first that can be read."""
        failed: StreamerError | None = None
        for place in self._places[chain_id]:
            try:
                return self._layer(place)
            except StreamerError as error:
                failed = failed or error
        assert failed is not None
        raise failed

    def _image(self, found: FoundImage) -> Image:
        path = layout.blob(found.manifest.config.digest)
        with told():
            config = configs.parse(self._directory.document(found.manifest.config, media.MAX_CONFIG), path)
        layers = [self._layer_or_failure(place) for place in _places(found)]
        names = sorted(
            (name for name, ids in self._found.names.items() if found.id in ids and name.tag is not None),
            key=lambda name: name.name,
        )
        whole = all(layer.blob is not None for layer in layers)
        return Image(self._store, config, tuple(names), tuple(layers), found.data if whole else None)

    def _layer_or_failure(self, place: _Place) -> Layer:
        """The layer, or where its blob cannot be read one that raises why as soon as its tar is asked for."""
        try:
            return self._layer(place)
        except StreamerError as error:
            return Layer(self._store, place.diff_id, place.chain_id, assemble=_raising(error))

    def _layer(self, place: _Place) -> Layer:
        what = f"layer {digests.short(place.diff_id)} of store {self._store}"
        try:
            blob, guard = self._directory.blob(place.descriptor, what)
        except Missing as error:
            if place.descriptor.media_type.startswith(media.NOT_DISTRIBUTABLE):
                raise Unsupported(
                    f"{what} may not be distributed, so the layout has no blob of it: it is to be had from where its "
                    "image was made"
                ) from error
            raise
        if place.descriptor.media_type.endswith(media.ENCRYPTED):
            assemble = _raising(Unsupported(f"{what} is encrypted: only its image can be saved, as it is"))
        else:
            assemble = blobs.assemble(blob, place.diff_id, what)
        return Layer(
            store=self._store,
            diff_id=place.diff_id,
            chain_id=place.chain_id,
            size=blobs.tar_size(place.descriptor, place.diff_id),
            assemble=assemble,
            guard=guard,
            blob=blob,
        )


def _places(found: FoundImage) -> list[_Place]:
    chains = digests.chain_ids(found.diff_ids)
    return [_Place(*each) for each in zip(found.manifest.layers, found.diff_ids, chains, strict=True)]


def _raising(error: StreamerError) -> Reading:
    def fail(_start: int = 0, _stop: int | None = None, /) -> Iterator[bytes]:
        raise error

    return fail
