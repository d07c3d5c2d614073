"""What is left of the tars that layers came in: how long they were, and how they are put together again."""

from __future__ import annotations

import os
import stat
import threading

from streamer.errors import StreamerError
from streamer.stores.assembly import assembly, open_records, trees
from streamer.stores.base import Reading
from streamer.stores.containers_storage.records import LayerRecord
from streamer.stores.containers_storage.trees import Tree
from streamer.tar import records as tar_split


class Splits:
    """Remembers the lengths that had to be measured. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._measured: dict[tuple[bytes, str], int | None] = {}

    def of(self, layer: LayerRecord, tree: Tree, what: str) -> tuple[int | None, Reading | None]:
        """The length of the layer's tar, and `Layer.assemble`; None where the store cannot tell."""
        if tree.packed or not is_kept(layer):
            return None, None
        path = layer.place.absolute(layer.place.split(layer.id))
        # Only for a layer with a digest did the engine count the bytes of the tar itself.
        size = layer.size if layer.size >= 0 and layer.diff_id is not None else self._length(layer, path)
        return size, assembly(path, trees(tree.directories[0], what), what)

    def _length(self, layer: LayerRecord, path: bytes) -> int | None:
        key = path, layer.created
        with self._lock:
            if key in self._measured:
                return self._measured[key]
        try:
            relative = layer.place.split(layer.id)
            with open_records(path, lambda _, flags: layer.place.open(relative, flags)) as file:
                length = tar_split.length(file)
        except (OSError, StreamerError):
            length = None  # what is wrong with it is told by who reads it
        with self._lock:
            self._measured[key] = length
        return length


def is_kept(layer: LayerRecord) -> bool:
    """Whether the layer's tar-split data is there. Layers that engines make of a container may have none."""
    try:
        return stat.S_ISREG(os.lstat(layer.place.absolute(layer.place.split(layer.id))).st_mode)
    except OSError:
        return False
