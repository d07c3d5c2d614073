"""Layers of the layer store: what lies where, how long its tar is, and whether it is still there."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial

from streamer.errors import NotFound, NotPermitted, SourceChanged, StoreDamaged
from streamer.mounts.mount import Snapshot
from streamer.oci import digest as digests
from streamer.stores.assembly import assembly, open_records, trees
from streamer.stores.base import Guard, Layer
from streamer.stores.docker.files import failed, required
from streamer.stores.docker.root import DataRoot
from streamer.tar import records as tar_split

MAX_DEPTH = 512
"""More layers than any kernel mounts; dockerd refuses more than 125."""
_HEX = re.compile(r"[0-9a-f]{64}")

MEASURED = 16384
"""Lengths of tars that are remembered, for as long as the store is open."""

Measure = Callable[[bytes, str], int]
"""The length of a layer's tar: from its tar-split file, and a key that no other layer ever had."""


@dataclass(frozen=True, slots=True)
class Stored:
    """One directory of layerdb. `cache` names what the graph driver keeps; a layer made anew never has the same."""

    chain_id: str
    diff_id: str
    parent: str | None
    cache: str


class Layers:
    """The layers that one reading of the store meets; each is looked at once."""

    def __init__(self, store: str, root: DataRoot, measure: Measure) -> None:
        self._store = store
        self._root = root
        self._measure = measure
        self._stored: dict[str, Stored] = {}
        self._trees: dict[str, bytes] = {}
        self._records: dict[str, Layer] = {}

    def chain(self, chain_id: str) -> tuple[Stored, ...]:
        """The layer and all below it, topmost first. StoreDamaged naming what is missing or wrong."""
        found: list[Stored] = []
        upper, wanted = chain_id, chain_id
        while True:
            each = self._read(wanted)
            found.append(each)
            if each.parent is None:
                return tuple(found)
            if len(found) == MAX_DEPTH:
                raise StoreDamaged(f"{self._place(upper)}/parent begins a chain of more than {MAX_DEPTH} layers")
            wanted = each.parent

    def layer(self, chain_id: str) -> Layer:
        """NotFound if it was removed since the store was read."""
        try:
            return self._layer(chain_id)
        except StoreDamaged:
            if not self._root.files.directory(self._place(chain_id)):
                raise NotFound(f"layer {digests.short(chain_id)} was removed from store {self._store}") from None
            raise

    def image(self, diff_ids: tuple[str, ...]) -> tuple[Layer, ...]:
        """The layers of an image, base first."""
        return tuple(self._layer(chain_id) for chain_id in digests.chain_ids(diff_ids))

    def diff_ids(self) -> dict[str, str]:
        """The diff ID of every layer by chain ID; empty where it cannot be read."""
        found = {}
        for encoded in self._root.files.names(f"{self._root.metadata}/layerdb/sha256"):
            if _HEX.fullmatch(encoded):  # anything else is being removed
                place = f"{self._root.metadata}/layerdb/sha256/{encoded}"
                try:
                    diff_id = self._root.files.digest(f"{place}/diff")
                except (StoreDamaged, NotPermitted):
                    diff_id = ""
                if diff_id is None:
                    if not self._root.files.directory(place):
                        continue  # removed in this moment
                    diff_id = ""
                found[f"sha256:{encoded}"] = diff_id
        return found

    def snapshot(self, chain: tuple[Stored, ...], init: str | None = None) -> Snapshot:
        """What the layers (topmost first), and `init` above them, add up to. A whole tree each with vfs."""
        identities = ([init] if init else []) + [each.cache for each in chain]
        if self._root.driver != "overlay2":
            identities = identities[:1]
        return Snapshot(
            "overlay" if self._root.driver == "overlay2" else "directory",
            tuple(self.tree(identity) for identity in identities),
            userxattr=self._root.rootless,
            ids=self._root.ids,
        )

    def tree(self, identity: str) -> bytes:
        """The path of what the graph driver keeps under an ID; StoreDamaged unless it is there."""
        if identity not in self._trees:
            name = self._root.tree(identity)
            if not self._root.files.directory(name):
                raise StoreDamaged(f"{name} is missing")
            self._trees[identity] = self._root.files.at(name)
        return self._trees[identity]

    def guard(self, chain: tuple[Stored, ...]) -> Guard:
        """dockerd renames a layer in layerdb before it deletes any of its files: while it is there under its name, with
        the same files, all that was read of it was whole."""
        return partial(_check, self._root, tuple((self._place(each.chain_id), each) for each in chain))

    def _layer(self, chain_id: str) -> Layer:
        if chain_id not in self._records:
            chain = self.chain(chain_id)
            top, what = chain[0], f"layer {digests.short(chain[0].diff_id)} of store {self._store}"
            name = f"{self._place(chain_id)}/tar-split.json.gz"
            records = self._root.files.at(name)
            snapshot = self.snapshot(chain)
            self._records[chain_id] = Layer(
                store=self._store,
                diff_id=top.diff_id,
                chain_id=chain_id,
                snapshot=snapshot,
                parent=self.snapshot(chain[1:]) if chain[1:] else None,
                size=self._length(name, records, top),
                assemble=assembly(records, trees(snapshot.layers[0], what), what),
                guard=self.guard(chain),
            )
        return self._records[chain_id]

    def _length(self, name: str, records: bytes, layer: Stored) -> int:
        try:
            return self._measure(records, f"{layer.chain_id} {layer.cache}")
        except OSError as error:
            raise failed(name, error) from error
        except StoreDamaged as error:
            raise StoreDamaged(f"{name} is damaged: {error}") from error

    def _place(self, chain_id: str) -> str:
        return f"{self._root.metadata}/layerdb/sha256/{digests.encoded(chain_id)}"

    def _read(self, chain_id: str) -> Stored:
        if chain_id not in self._stored:
            place = self._place(chain_id)
            files = self._root.files
            diff_id = required(files.digest(f"{place}/diff"), f"{place}/diff")
            parent = files.digest(f"{place}/parent")
            cache = required(files.identity(f"{place}/cache-id"), f"{place}/cache-id")
            made = (
                digests.chain_ids((diff_id,)) if parent is None else (digests.digest(f"{parent} {diff_id}".encode()),)
            )
            if made != (chain_id,):
                raise StoreDamaged(f"{place} has another chain ID than its diff and parent add up to")
            self._stored[chain_id] = Stored(chain_id, diff_id, parent, cache)
        return self._stored[chain_id]


def measure() -> Measure:
    """A measure that remembers. Lengths do not change: what has another length is another layer."""

    @lru_cache(MEASURED)
    def measured(records: bytes, key: str) -> int:
        with open_records(records) as file:
            return tar_split.length(file)

    return measured


def _check(root: DataRoot, layers: tuple[tuple[str, Stored], ...]) -> None:
    for place, layer in layers:
        try:
            there = root.files.word(f"{place}/cache-id")
        except (StoreDamaged, NotPermitted):
            there = None
        if there != layer.cache:
            raise SourceChanged(f"layer {digests.short(layer.diff_id)} was removed from the store meanwhile")
