"""Containers: their own snapshot, pinned by a lease while it is read, and what it stands on."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from google.protobuf.timestamp_pb2 import Timestamp

from streamer.errors import InvalidReference, NotFound, SourceChanged, StoreDamaged
from streamer.mounts.mount import Snapshot
from streamer.oci import reference as references
from streamer.stores import base
from streamer.stores.base import Pair
from streamer.stores.containerd import mounts
from streamer.stores.containerd.api.containers_pb2 import Container, GetContainerRequest
from streamer.stores.containerd.api.snapshots_pb2 import Info, MountsRequest, StatSnapshotRequest
from streamer.stores.containerd.engine import Engine
from streamer.stores.containerd.freezer import ContainerdFreezer
from streamer.stores.containerd.leases import Lease, snapshots
from streamer.stores.containerd.methods import CONTAINER, SNAPSHOT_MOUNTS, STAT_SNAPSHOT

REMOVAL = 0.25
"""Seconds in which a client that removes a container's snapshot has removed the container as well."""


def names(labels: Mapping[str, str]) -> tuple[str, ...]:
    """What people call a container: nerdctl's name; Kubernetes' container, pod and namespace as one name, a pod's
    sandbox being its container POD."""
    if labels.get("nerdctl/name"):
        return (labels["nerdctl/name"],)
    pod = labels.get("io.kubernetes.pod.name")
    if not pod:
        return ()
    container = labels.get("io.kubernetes.container.name") or "POD"
    return ("_".join((container, pod, labels.get("io.kubernetes.pod.namespace", "default"))),)


def record(engine: Engine, found: Container, status: str, image: str) -> base.Container:
    """The container as it was when `found` was listed; `image` is the ID of its image, empty if unknown.

    NotFound where it was removed since then; StoreDamaged where its snapshot is not there; Unsupported, naming the type
    of mount, where it cannot be read.
    """
    called = next(iter(names(found.labels)), found.id)
    what = f"container {called} of store {engine.store}"
    own = _Own(engine, found, what)
    try:
        seen = own.stat()
        snapshot = own.snapshot(seen)
    except NotFound as error:
        if own.goes():
            raise NotFound(f"{what} was removed meanwhile") from error
        raise StoreDamaged(
            f"snapshot {found.snapshot_key!r} of {what} is not in its snapshotter {found.snapshotter!r}"
        ) from error
    return base.Container(
        store=engine.store,
        id=found.id,
        name=called,
        image=image,
        image_name=_familiar(found.image),
        created=found.created_at.ToJsonString(),
        snapshot=snapshot,
        # A whole tree's parent is another one, of which only a lease makes a view.
        parent=_below(snapshot),
        status=status,
        guard=lambda: own.check(seen),
        hold=lambda: own.hold(seen, snapshot),
        freezer=ContainerdFreezer(engine.client, engine.socket, engine.namespace, found.id),
    )


class _Own:
    """A container's snapshot."""

    def __init__(self, engine: Engine, found: Container, what: str) -> None:
        self._engine = engine
        self._found = found
        self._what = what

    def stat(self) -> Info:
        question = StatSnapshotRequest(snapshotter=self._found.snapshotter, key=self._found.snapshot_key)
        return self._engine.client.call(STAT_SNAPSHOT, question).info

    def goes(self) -> bool:
        """Whether the container is being removed: clients remove the snapshot first, so for a moment it is without."""
        deadline = time.monotonic() + REMOVAL
        while True:
            try:
                now = self._engine.client.call(CONTAINER, GetContainerRequest(id=self._found.id)).container
            except NotFound:
                return True
            if not _same(now.created_at, self._found.created_at):
                return True
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)

    def snapshot(self, seen: Info) -> Snapshot:
        """From the mounts that it would be run on."""
        question = MountsRequest(snapshotter=self._found.snapshotter, key=self._found.snapshot_key)
        found = self._engine.client.call(SNAPSHOT_MOUNTS, question).mounts
        return mounts.snapshot(found, self._found.snapshotter, self._what, active=True, parents=bool(seen.parent))

    def check(self, seen: Info) -> None:
        """SourceChanged unless it is the same container with the same snapshot: a lease keeps nobody from removing
        either, and files are deleted only after they are no longer known."""
        try:
            container = self._engine.client.call(CONTAINER, GetContainerRequest(id=self._found.id)).container
            same = (
                _same(container.created_at, self._found.created_at)
                and container.snapshotter == self._found.snapshotter
                and container.snapshot_key == self._found.snapshot_key
            )
            now = self.stat()
            same = same and _same(now.created_at, seen.created_at) and now.parent == seen.parent
        except NotFound as error:
            raise SourceChanged(f"{self._what} was removed meanwhile") from error
        if not same:
            raise SourceChanged(f"{self._what} was removed and made anew meanwhile")

    @contextmanager
    def hold(self, seen: Info, expected: Snapshot) -> Iterator[Pair]:
        with self._engine.leases.lease(self._what) as lease:
            lease.add(snapshots(self._found.snapshotter), self._found.snapshot_key)
            self.check(seen)
            yield expected, self._parent(lease, seen, expected)

    def _parent(self, lease: Lease, seen: Info, snapshot: Snapshot) -> Snapshot | None:
        if snapshot.driver == "overlay" or not seen.parent:
            return _below(snapshot)
        found = lease.view(self._found.snapshotter, seen.parent)
        return mounts.snapshot(found, self._found.snapshotter, self._what, active=False, parents=True)


def _below(snapshot: Snapshot) -> Snapshot | None:
    if not snapshot.lowers:
        return None
    return Snapshot(snapshot.driver, snapshot.lowers, None, snapshot.userxattr, snapshot.ids)


def _same(one: Timestamp, other: Timestamp) -> bool:
    return (one.seconds, one.nanos) == (other.seconds, other.nanos)


def _familiar(name: str) -> str:
    try:
        return references.parse(name).familiar
    except InvalidReference:
        return name
