"""One layer's bytes and file system, each kept by a lease while it is read."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from streamer.errors import NotFound, SourceChanged
from streamer.mounts.mount import Snapshot
from streamer.oci import digest as digests
from streamer.oci.descriptor import Descriptor
from streamer.stores import blobs
from streamer.stores.base import Blob, Layer, Pair
from streamer.stores.containerd import mounts
from streamer.stores.containerd.api.content_pb2 import InfoRequest
from streamer.stores.containerd.api.snapshots_pb2 import StatSnapshotRequest
from streamer.stores.containerd.engine import Engine
from streamer.stores.containerd.leases import CONTENT, Lease
from streamer.stores.containerd.methods import CONTENT_INFO, STAT_SNAPSHOT


@dataclass(frozen=True, slots=True)
class Place:
    """Where a layer lies unpacked: `parent` is the chain ID of the layer below, empty for a base layer."""

    snapshotter: str
    chain_id: str
    parent: str


def record(engine: Engine, diff_id: str, chain_id: str, blob: Descriptor | None, place: Place | None) -> Layer:
    """The layer, of which the store keeps a blob, an unpacked file system, both or neither."""
    kept = _Kept(engine, f"layer {digests.short(diff_id)} of store {engine.store}", blob, place)
    read = Blob(blob, blobs.ended(kept.read, blob, kept.what)) if blob is not None else None
    return Layer(
        store=engine.store,
        diff_id=diff_id,
        chain_id=chain_id,
        size=blobs.tar_size(blob, diff_id) if blob is not None else None,
        assemble=blobs.assemble(read, diff_id, kept.what) if read is not None else None,
        guard=kept.guard,
        hold=kept.hold if place is not None else None,
        blob=read,
    )


class _Kept:
    """What a layer's functions share: whether something is held, and whether the blob was read to its end."""

    def __init__(self, engine: Engine, what: str, blob: Descriptor | None, place: Place | None) -> None:
        self.what = what
        self._engine = engine
        self._blob = blob
        self._place = place
        self._lock = threading.Lock()
        self._held: list[Lease] = []
        self._whole = False

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """The blob. What has its digest is right, whatever becomes of the blob once the lease is released."""
        assert self._blob is not None
        with self._engine.leases.lease(self.what) as lease:
            lease.add(CONTENT, self._blob.digest)
            yield from self._engine.content.blocks(self._blob, self._engine.root, self.what, start, stop)
            if start == 0 and (stop is None or stop >= self._blob.size):
                self._whole = True

    @contextmanager
    def hold(self) -> Iterator[Pair]:
        """The layer's file system and the one below it."""
        assert self._place is not None
        of = self._place
        with self._engine.leases.lease(self.what) as lease:
            top = self._view(lease, of.chain_id, parents=bool(of.parent))
            with self._lock:
                self._held.append(lease)
            try:
                yield top, self._below(lease, top)
            finally:
                with self._lock:
                    self._held.remove(lease)

    def guard(self) -> None:
        """Nothing that a lease holds goes away, but a lease may be lost; without one, something must still be there."""
        with self._lock:
            held = list(self._held)
        for lease in held:
            lease.check()
        if not held and not self._whole and not self._there():
            raise SourceChanged(f"{self.what} was removed from the store meanwhile")

    def _view(self, lease: Lease, chain_id: str, *, parents: bool) -> Snapshot:
        assert self._place is not None
        found = lease.view(self._place.snapshotter, chain_id)
        return mounts.snapshot(found, self._place.snapshotter, self.what, active=False, parents=parents)

    def _below(self, lease: Lease, top: Snapshot) -> Snapshot | None:
        assert self._place is not None
        if not self._place.parent:
            return None
        if top.driver == "overlay":
            return Snapshot(top.driver, top.lowers[1:], None, top.userxattr, top.ids)
        # Whether that one stands on others does not matter: it is a whole tree.
        return self._view(lease, self._place.parent, parents=True)

    def _there(self) -> bool:
        client, place = self._engine.client, self._place
        try:
            if place is not None:
                question = StatSnapshotRequest(snapshotter=place.snapshotter, key=place.chain_id)
                client.call(STAT_SNAPSHOT, question)
                return True
        except NotFound:
            pass
        try:
            if self._blob is not None:
                client.call(CONTENT_INFO, InfoRequest(digest=self._blob.digest))
                return True
        except NotFound:
            pass
        return False
