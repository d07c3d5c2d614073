"""The stores of podman, Buildah, Skopeo and CRI-O (containers/storage), read without asking any of them."""

from __future__ import annotations

import os
import threading
from functools import partial
from pathlib import Path

from anyio import CapacityLimiter, to_thread

from streamer.stores import subids
from streamer.stores.base import Store
from streamer.stores.containers_storage.index import StorageIndex
from streamer.stores.containers_storage.making import Making
from streamer.stores.containers_storage.options import StorageOptions
from streamer.stores.containers_storage.places import Place
from streamer.stores.containers_storage.reading import Lists, Patient, Reader, Signatures, driver
from streamer.stores.containers_storage.splits import Splits
from streamer.stores.containers_storage.trees import kind
from streamer.stores.index import LOOKUPS, IndexedStore

LOCAL = "localhost"
"""The registry in whose name podman and Buildah put images that have none."""


def containers_storage(
    name: str, graphroot: Path, runroot: Path | None = None, *, options: StorageOptions | None = None
) -> Store:
    """The store whose graph root is `graphroot`. Nothing is read yet, and nothing is kept open.

    Without `runroot` it cannot be told which containers run. The driver is found from what is there.
    """
    known = _Known(name, graphroot, runroot, options or StorageOptions())
    location = f"containers-storage:{graphroot}" + (f"+{runroot}" if runroot is not None else "")
    return IndexedStore(name, location, known.read, local_names=LOCAL)


class _Known:
    """The index as it was last read; it is made anew when a list was replaced."""

    def __init__(self, name: str, graphroot: Path, runroot: Path | None, options: StorageOptions) -> None:
        self._name = name
        self._graphroot = graphroot
        self._runroot = runroot
        self._options = options
        self._splits = Splits()
        self._patient = Patient()
        self._limiter = CapacityLimiter(LOOKUPS)
        self._lock = threading.Lock()
        self._reader: tuple[str, Reader] | None = None
        self._index: tuple[Signatures, StorageIndex] | None = None

    async def read(self) -> StorageIndex:
        reader, known = await to_thread.run_sync(self._look, limiter=self._limiter)
        if known is not None:
            return known
        lists = await self._patient.lists(reader)
        return await to_thread.run_sync(partial(self._made, reader, lists), limiter=self._limiter)

    def _look(self) -> tuple[Reader, StorageIndex | None]:
        """The reader of the driver whose layers are there, and the index if no list was replaced since."""
        found = driver(self._name, self._graphroot, self._options)
        with self._lock:
            if self._reader is None or self._reader[0] != found:
                self._reader = found, self._new_reader(found)
                self._index = None
            reader = self._reader[1]
            index = self._index
        return reader, index[1] if index is not None and index[0] == reader.signatures() else None

    def _new_reader(self, found: str) -> Reader:
        def place(path: Path, label: str = "") -> Place:
            return Place(self._name, os.fsencode(os.path.realpath(path)), found, label)

        places = [place(self._graphroot)]
        if self._options.imagestore is not None:
            places.append(place(self._options.imagestore, " of the image store"))
        for number, path in enumerate(self._options.additional, 1):
            places.append(place(path, f" of additional image store {number}"))
        run = place(self._runroot, " of the run root") if self._runroot is not None else None
        return Reader(tuple(places), run)

    def _made(self, reader: Reader, lists: Lists) -> StorageIndex:
        uid, gid = _owner(reader.graph)
        options = self._options
        making = Making(
            store=self._name,
            reader=reader,
            kind=kind(reader.graph, uid),
            owner=subids.rootless(uid, gid, options.subuid, options.subgid) if uid else None,
            splits=self._splits,
            graphroot=self._graphroot,
            runroot=self._runroot,
        )
        index = StorageIndex(lists, making)
        with self._lock:
            self._index = lists.signatures, index
        return index


def _owner(graph: Place) -> tuple[int, int]:
    """Whose store it is: root of the user namespace that it was made in."""
    for path in (graph.absolute(graph.driver), graph.path):
        try:
            status = os.stat(path)
        except OSError:
            continue
        return status.st_uid, status.st_gid
    return 0, 0
