"""All lists of a store, read as they were at one moment; what did not change is not read again."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import anyio
from anyio import CapacityLimiter, to_thread

from streamer.errors import NotPermitted, StoreDamaged, StreamerError, Unsupported
from streamer.stores.containers_storage import locks, records
from streamer.stores.containers_storage.listing import Fetched, Parsed, RecordList, Signature, anew
from streamer.stores.containers_storage.options import DRIVERS, StorageOptions
from streamer.stores.containers_storage.places import Place
from streamer.stores.containers_storage.records import ContainerRecord, ImageRecord, LayerRecord

PATIENCE = 2.0
"""Seconds to wait for locks before the lists are read without: engines may hold them as long as a layer is unpacked."""
_TRIES = 20
_READINGS = 4

Signatures: TypeAlias = tuple[Signature, ...]
LayerKey: TypeAlias = tuple[str, str]
"""A layer's place (its label) and ID."""


@dataclass(frozen=True, slots=True)
class Lists:
    """What the files said; the first list of each kind is the graph root's own."""

    images: tuple[Parsed[ImageRecord], ...]
    layers: tuple[Parsed[LayerRecord], ...]
    containers: tuple[Parsed[ContainerRecord], ...]
    signatures: Signatures


class Reader:
    """The files of one store with one driver."""

    def __init__(self, places: tuple[Place, ...], run: Place | None) -> None:
        graph = places[0]
        self.graph, self.run = graph, run
        self._images = [RecordList(place, place.list("images"), records.image) for place in places]
        self._layers = [RecordList(place, place.list("layers"), records.layer) for place in places]
        self._layers.append(RecordList(graph, graph.list("layers", volatile=True), records.layer))
        self._containers = [
            RecordList(graph, graph.list("containers", volatile=volatile), records.container)
            for volatile in (False, True)
        ]
        if run is not None:
            # `transient_store`: what does not outlive a boot is listed where nothing does.
            moved = run.list("layers", volatile=True), run.list("containers", volatile=True)
            self._layers.append(RecordList(run, moved[0], partial(_layer_of, graph)))
            self._containers.append(RecordList(run, moved[1], partial(_container_of, graph)))
        self._locks = [
            *((place, place.lock("layers")) for place in places),
            *((place, place.lock("images")) for place in places),
            (graph, graph.lock("containers")),
        ]
        self._guarding = threading.Lock()
        self._by_key: tuple[Signatures, dict[LayerKey, LayerRecord]] = ((), {})

    def signatures(self) -> Signatures:
        """Changes whenever a list does."""
        lists: list[RecordList[Any]] = [*self._images, *self._layers, *self._containers]
        return tuple(each.signature() for each in lists)

    def lists(self, *, locked: bool) -> Lists | None:
        """All lists; with `locked`, None if somebody writes now."""
        if locked:
            with locks.shared(self._locks) as got:
                if not got:
                    return None
                fetched = self._fetched()
            return self._parsed(fetched)
        for _ in range(_TRIES):
            before = self.signatures()
            fetched = self._fetched()
            if self.signatures() == before:
                break
        return self._parsed(fetched)

    def layers_now(self) -> tuple[Mapping[LayerKey, LayerRecord], StreamerError | None]:
        """The layers as they are listed now, for end checks: nothing is locked, and little done if nothing changed.

        An entry that cannot be read is missing. The error is what keeps a list from being read: who misses no layer
        may leave it alone.
        """
        fetched = [each.fetch() for each in self._layers]
        parsed = [each.parsed(found) for each, found in zip(self._layers, fetched, strict=True)]
        error = next((anew(each.error) for each in parsed if each.error is not None), None)
        signatures = tuple(each.signature for each in fetched)
        with self._guarding:
            if signatures == self._by_key[0]:
                return self._by_key[1], error
        found = {(layer.place.label, layer.id): layer for each in reversed(parsed) for layer in each.records}
        with self._guarding:
            self._by_key = signatures, found
        return found, error

    def container_now(self, identity: str) -> ContainerRecord | None:
        """The container as it is listed now; what keeps its list from being read is raised."""
        error: StreamerError | None = None
        for each in self._containers:
            parsed = each.now()
            error = error or parsed.error
            for container in parsed.records:
                if container.id == identity:
                    return container
        if error is not None:
            raise anew(error)
        return None

    def _fetched(self) -> list[list[Fetched[Any]]]:
        return [[each.fetch() for each in lists] for lists in (self._images, self._layers, self._containers)]

    def _parsed(self, fetched: list[list[Fetched[Any]]]) -> Lists:
        images, layers, containers = fetched
        return Lists(
            tuple(each.parsed(found) for each, found in zip(self._images, images, strict=True)),
            tuple(each.parsed(found) for each, found in zip(self._layers, layers, strict=True)),
            tuple(each.parsed(found) for each, found in zip(self._containers, containers, strict=True)),
            tuple(each.signature for found in fetched for each in found),
        )


def _layer_of(graph: Place, value: Mapping[str, Any], _: Place) -> LayerRecord:
    return records.layer(value, graph)


def _container_of(graph: Place, value: Mapping[str, Any], _: Place) -> ContainerRecord:
    return records.container(value, graph)


class Patient:
    """Waits for the locks of a Reader, without a thread, and not for ever."""

    def __init__(self) -> None:
        self._limiter = CapacityLimiter(_READINGS)

    async def lists(self, reader: Reader) -> Lists:
        deadline = time.monotonic() + PATIENCE
        delay = 0.002
        while True:
            waiting = time.monotonic() < deadline
            lists = await to_thread.run_sync(partial(reader.lists, locked=waiting), limiter=self._limiter)
            if lists is not None:
                return lists
            await anyio.sleep(delay)
            delay = min(2 * delay, 0.1)


def driver(store: str, graphroot: Path, options: StorageOptions) -> str:
    """The driver whose layers are there. Unsupported for another one, by its name; StoreDamaged where there is none."""
    try:
        names = os.listdir(graphroot)
    except PermissionError as error:
        raise NotPermitted(f"store {store} may not be read by this user: run as its owner or as root") from error
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise StoreDamaged(f"the directory of store {store} cannot be read: {reason}") from error
    there = {name.removesuffix(end) for name in names for end in ("-images", "-layers") if name.endswith(end)}
    wanted = "overlay" if options.driver == "overlay2" else options.driver
    known = [each for each in (wanted, *DRIVERS) if each in there and each in DRIVERS]
    if known and wanted not in known:
        # A store that was tried out with another driver has empty directories of it.
        known.sort(key=lambda each: not os.path.exists(graphroot / f"{each}-images" / "images.json"))
    if known:
        return known[0]
    if there:
        raise Unsupported(f"store {store} uses the driver {min(there)!r}: only {' and '.join(DRIVERS)} can be read")
    if options.imagestore is not None and wanted in DRIVERS:
        return wanted
    raise StoreDamaged(f"the directory of store {store} holds no images of containers/storage")
