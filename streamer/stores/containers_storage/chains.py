"""Which layers lie on which: stacks by following `parent`, chain IDs from diff IDs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from streamer.errors import StoreDamaged, StreamerError
from streamer.oci import digest as digests
from streamer.stores.containers_storage.listing import Parsed, anew
from streamer.stores.containers_storage.places import Place
from streamer.stores.containers_storage.records import LayerRecord

DEPTH = 512
"""Layers on each other; the overlay driver of the engines gives up at 500."""


class Chains:
    """All layers of a store. Where several places list the same layer, the first one's counts."""

    def __init__(self, graph: Place, lists: tuple[Parsed[LayerRecord], ...]) -> None:
        self._graph = graph
        self._error = next((each.error for each in lists if each.error is not None), None)
        self._layers: dict[str, LayerRecord] = {}
        for each in lists:
            for layer in each.records:
                self._layers.setdefault(layer.id, layer)
        self._learned: dict[str, str] = {}
        self._chains: dict[str, str | StreamerError | None] | None = None

    def __iter__(self) -> Iterator[LayerRecord]:
        return iter(self._layers.values())

    def stack(self, identity: str | None) -> tuple[LayerRecord, ...]:
        """The layer and all below it, topmost first. StoreDamaged where one is missing or not whole."""
        found: dict[str, LayerRecord] = {}
        while identity is not None:
            if identity in found:
                raise _below_itself(found[identity])
            if len(found) == DEPTH:
                name = self._graph.shown(self._graph.list("layers"))
                raise StoreDamaged(f"more than {DEPTH} layers lie on each other in {name}")
            found[identity] = self._layer(identity)
            identity = found[identity].parent
        return tuple(found.values())

    def learn(self, diff_ids: Mapping[str, str]) -> None:
        """Diff IDs by layer, for layers whose own records do not have them."""
        self._learned.update(diff_ids)
        self._chains = None

    def diff_id(self, layer: LayerRecord) -> str | None:
        return layer.diff_id or self._learned.get(layer.id)

    def chain_ids(self) -> Mapping[str, str | StreamerError | None]:
        """Chain IDs by layer: None for a container's layer and for what is not whole or lies on either, the error for
        what lies on something that is not there."""
        if self._chains is None:
            self._chains = {}
            for layer in self._layers.values():
                self._chain(layer, self._chains)
        return self._chains

    def _chain(self, layer: LayerRecord, chains: dict[str, str | StreamerError | None]) -> None:
        above: dict[str, LayerRecord] = {}
        identity: str | None = layer.id
        below: str | StreamerError | None = ""
        # Not by recursion: how deep a stack is, is the store's word.
        while identity is not None:
            if identity in chains:
                below = chains[identity]
                break
            found = self._layers.get(identity)
            if found is None or identity in above:
                below = self._missing(identity) if found is None else _below_itself(found)
                break
            above[identity] = found
            identity = found.parent
        for each in reversed(above.values()):
            if isinstance(below, str):
                diff = None if each.incomplete else self.diff_id(each)
                below = digests.digest(f"{below} {diff}".encode()) if below and diff else diff
            chains[each.id] = below

    def _layer(self, identity: str) -> LayerRecord:
        layer = self._layers.get(identity)
        if layer is None:
            raise self._missing(identity)
        if layer.incomplete:
            raise StoreDamaged(
                f"layer {identity[:12]} in {_list(layer)} is incomplete: it is being removed, or making it failed"
            )
        return layer

    def _missing(self, identity: str) -> StreamerError:
        if self._error is not None:
            return anew(self._error)
        return StoreDamaged(f"layer {identity[:12]} is missing from {self._graph.shown(self._graph.list('layers'))}")


def _below_itself(layer: LayerRecord) -> StoreDamaged:
    return StoreDamaged(f"layer {layer.id[:12]} in {_list(layer)} lies below itself")


def _list(layer: LayerRecord) -> str:
    return layer.place.shown(layer.place.list("layers"))
