"""One reading of a store as an index: names, IDs and chains from the lists; `Records` adds what lies on disk."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TypeVar

from streamer.errors import InvalidReference, StoreDamaged, StreamerError
from streamer.oci import digest as digests
from streamer.oci import reference as references
from streamer.oci.reference import Reference
from streamer.stores.base import Container, Image, Layer
from streamer.stores.containers_storage.chains import Chains
from streamer.stores.containers_storage.configs import config, config_digest
from streamer.stores.containers_storage.listing import Parsed, anew
from streamer.stores.containers_storage.making import Making
from streamer.stores.containers_storage.reading import Lists
from streamer.stores.containers_storage.records import ContainerRecord, ImageRecord, LayerRecord
from streamer.stores.containers_storage.splits import is_kept

_MANIFEST = "manifest-"

T = TypeVar("T")


class StorageIndex:
    """An `Index`. What keeps a list of the graph root's own from being read is raised where that list is asked for;
    anything else that cannot be read is listed under a name of its own, and raised by its record."""

    def __init__(self, lists: Lists, making: Making) -> None:
        self._making = making
        self._chains = Chains(making.graph, lists.layers)
        self._unread = (lists.images[0].error, lists.layers[0].error, lists.containers[0].error)
        self._broken_images = dict(_wrong(lists.images))
        self._broken_layers = dict(_wrong(lists.layers))
        self._broken_containers = dict(_wrong(lists.containers))
        self._images: dict[str, list[ImageRecord]] = {}
        self._digests: dict[str, str] = {}
        for images in lists.images:
            for image in images.records:
                self._add(image)
        self._containers: dict[str, ContainerRecord] = {}
        for containers in lists.containers:
            for container in containers.records:
                self._containers.setdefault(container.id, container)
        self._by_chain = self._chained()
        self._names, self._aliases = self._referenced()

    @property
    def names(self) -> Mapping[Reference, Collection[str]]:
        _check(self._unread[0])
        return self._names

    @property
    def images(self) -> Collection[str]:
        _check(self._unread[0])
        return self._images.keys() | self._broken_images.keys()

    @property
    def aliases(self) -> Mapping[str, Collection[str]]:
        return self._aliases

    @property
    def layers(self) -> Mapping[str, str]:
        _check(self._unread[1])
        found = {chain: self._chains.diff_id(layers[0]) or "" for chain, layers in self._by_chain.items()}
        return {**dict.fromkeys(self._broken_layers, ""), **found}

    @property
    def containers(self) -> Mapping[str, Collection[str]]:
        _check(self._unread[2])
        named = {identity: container.names for identity, container in self._containers.items()}
        return {**dict.fromkeys(self._broken_containers, ()), **named}

    def image(self, identity: str) -> Image:
        """Of several records with one configuration the first that is whole."""
        names = tuple(name for name, ids in self._names.items() if name.tag is not None and identity in ids)
        broken = self._broken_images.get(identity)
        first = anew(broken) if broken is not None else None
        for record in self._images.get(identity, ()):
            try:
                return self._making.image(config(record, identity), names, self._chains.stack(record.layer))
            except StreamerError as error:
                first = first or error
        raise first or StoreDamaged(f"there is no image {identity} any more")

    def layer(self, chain_id: str) -> Layer:
        _check(self._broken_layers.get(chain_id))
        candidates = self._by_chain[chain_id]
        chosen = next((each for each in candidates if is_kept(each)), candidates[0])
        stack = self._chains.stack(chosen.id)
        return self._making.layer(self._chains.diff_id(chosen) or "", chain_id, stack)

    def container(self, identity: str) -> Container:
        _check(self._broken_containers.get(identity))
        record = self._containers[identity]
        image = self._digests.get(record.image) or f"sha256:{record.image}"
        named = next((name for image in self._images.get(image, ()) for name in image.names), "")
        return self._making.container(
            record,
            image if digests.is_digest(image) else "",
            record.image_name or named,
            self._chains.stack(record.layer),
        )

    def _add(self, image: ImageRecord) -> None:
        try:
            digest = config_digest(image)
        except StreamerError as error:
            own = f"sha256:{image.id}"
            self._broken_images[own if digests.is_digest(own) else f"image {image.id}{image.place.label}"] = error
            return
        self._digests.setdefault(image.id, digest)
        self._images.setdefault(digest, []).append(image)
        try:
            stack = self._chains.stack(image.layer)[::-1]
            if all(self._chains.diff_id(layer) for layer in stack):
                return
            # A layer that was pulled in parts: only the image's configuration has its diff ID.
            diff_ids = config(image, digest).diff_ids
        except StreamerError:
            return  # told when the image's record is made
        if len(diff_ids) == len(stack):
            self._chains.learn({layer.id: diff_id for layer, diff_id in zip(stack, diff_ids, strict=True)})

    def _chained(self) -> dict[str, list[LayerRecord]]:
        """Layers by chain ID; copies that were made for a user namespace come last."""
        found: dict[str, list[LayerRecord]] = {}
        chains = self._chains.chain_ids()
        for layer in sorted(self._chains, key=lambda layer: bool(layer.uids or layer.gids)):
            chain = chains[layer.id]
            if isinstance(chain, str):
                found.setdefault(chain, []).append(layer)
            elif chain is not None and self._chains.diff_id(layer) is not None:
                self._broken_layers[f"layer {layer.id}{layer.place.label}"] = chain
        return found

    def _referenced(self) -> tuple[dict[Reference, list[str]], dict[str, list[str]]]:
        names: dict[Reference, list[str]] = {}
        aliases: dict[str, list[str]] = {}
        for digest, records in self._images.items():
            for record in records:
                manifests = _manifests(record)
                for alias in {*manifests, f"sha256:{record.id}"} - {digest}:
                    if digests.is_digest(alias):
                        aliases.setdefault(alias, []).append(digest)
                for name in _parsed(record.names):
                    # A name means one image; what an additional store calls the same stands behind.
                    names.setdefault(name, []).append(digest)
                    for manifest in manifests:
                        pinned = Reference(name.repository, None, manifest)
                        if digest not in names.setdefault(pinned, []):
                            names[pinned].append(digest)
        return names, aliases


def _manifests(image: ImageRecord) -> set[str]:
    """Digests of the manifests that the image was pulled or made with."""
    kept = {name.removeprefix(_MANIFEST) for name in image.documents if name.startswith(_MANIFEST)}
    return {digest for digest in (image.digest, *kept) if digests.is_digest(digest)}


def _parsed(names: Iterable[str]) -> Iterator[Reference]:
    for name in names:
        try:
            yield references.parse(name).tagged()
        except InvalidReference:
            continue  # nobody could ask for it


def _wrong(lists: Iterable[Parsed[T]]) -> Iterator[tuple[str, StreamerError]]:
    for number, each in enumerate(lists):
        yield from each.wrong
        if number and each.error is not None:
            yield str(each.error), each.error


def _check(error: StreamerError | None) -> None:
    if error is not None:
        raise anew(error)
