"""Leases: what containerd must not collect while an export reads it.

Every lease expires by itself some minutes after it was last renewed, so that a killed process leaves nothing for long.
containerd has no way to prolong one: a new lease takes over what the old one held, then the old one is deleted.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from streamer.errors import NotFound, SourceChanged, StreamerError
from streamer.log import logger
from streamer.stores.containerd.api.leases_pb2 import AddResourceRequest, CreateRequest, DeleteRequest, Resource
from streamer.stores.containerd.api.snapshots_pb2 import RemoveSnapshotRequest, StatSnapshotRequest, ViewSnapshotRequest
from streamer.stores.containerd.api.types_pb2 import Mount
from streamer.stores.containerd.client import Client
from streamer.stores.containerd.methods import (
    ADD_RESOURCE,
    CREATE_LEASE,
    DELETE_LEASE,
    REMOVE_SNAPSHOT,
    STAT_SNAPSHOT,
    VIEW_SNAPSHOT,
)

log = logger("streamer.stores.containerd")

DURATION = 600.0
"""Seconds after which a lease that nobody renews is containerd's to remove."""

PREFIX = "streamer-"

CONTENT = "content"


def snapshots(snapshotter: str) -> str:
    """The type of a snapshot as a resource of a lease."""
    return f"snapshots/{snapshotter}"


class Lease:
    """One lease and what it holds, for one export."""

    def __init__(self, client: Client, what: str, duration: float) -> None:
        self._client = client
        self.what = what
        self._duration = duration
        self._resources: list[tuple[str, str]] = []
        self._views: list[tuple[str, str]] = []
        self._lock = threading.Lock()
        self._released = False
        self._id = self._create()

    def add(self, kind: str, identity: str) -> None:
        """Keeps a resource, which need not exist."""
        with self._lock:
            self._add(self._id, kind, identity)
            self._resources.append((kind, identity))

    def view(self, snapshotter: str, parent: str) -> Sequence[Mount]:
        """What shows the committed snapshot `parent`; SourceChanged if there is none any more."""
        key = PREFIX + secrets.token_hex(16)
        question = ViewSnapshotRequest(snapshotter=snapshotter, key=key, parent=parent)
        with self._lock:
            # Before it is there: a call that was broken off may still have made it.
            self._views.append((snapshotter, key))
            try:
                answer = self._client.call(VIEW_SNAPSHOT, question, lease=self._id, patient=True)
            except NotFound as error:
                raise SourceChanged(f"the snapshot of {self.what} was removed from the store meanwhile") from error
        return answer.mounts

    def check(self) -> None:
        """SourceChanged unless every view is still there: a lease may be deleted by somebody, or expire."""
        with self._lock:
            views = list(self._views)
        for snapshotter, key in views:
            try:
                self._client.call(STAT_SNAPSHOT, StatSnapshotRequest(snapshotter=snapshotter, key=key))
            except NotFound as error:
                raise SourceChanged(f"the view of {self.what} was removed from the store meanwhile") from error

    def renew(self) -> None:
        """Holds the same for another while. Raises what went wrong: then it goes on as it was, until it expires."""
        with self._lock:
            if self._released:
                return
            new = self._create()
            for kind, identity in (*self._resources, *((snapshots(of), key) for of, key in self._views)):
                self._add(new, kind, identity)
            old, self._id = self._id, new
            self._delete(old, sync=False)

    def release(self) -> StreamerError | None:
        """Removes the views and the lease. What could not be removed, and is told, goes with the lease when it expires:
        after the first failure nothing more is tried, an engine that hangs would be waited for each time."""
        with self._lock:
            self._released = True
            try:
                for snapshotter, key in self._views:
                    self._remove(snapshotter, key)
                self._delete(self._id, sync=True)
            except StreamerError as error:
                return error
        return None

    def _create(self) -> str:
        identity = PREFIX + secrets.token_hex(16)
        expires = datetime.now(UTC) + timedelta(seconds=self._duration)
        labels = {"containerd.io/gc.expire": expires.strftime("%Y-%m-%dT%H:%M:%SZ")}
        self._client.call(CREATE_LEASE, CreateRequest(id=identity, labels=labels))
        return identity

    def _add(self, lease: str, kind: str, identity: str) -> None:
        question = AddResourceRequest(id=lease, resource=Resource(id=identity, type=kind))
        self._client.call(ADD_RESOURCE, question)

    def _remove(self, snapshotter: str, key: str) -> None:
        try:
            self._client.call(REMOVE_SNAPSHOT, RemoveSnapshotRequest(snapshotter=snapshotter, key=key))
        except NotFound:
            pass

    def _delete(self, lease: str, *, sync: bool) -> None:
        """`sync` waits until what nobody else needs is gone: nothing of an image that was removed is left behind."""
        try:
            self._client.call(DELETE_LEASE, DeleteRequest(id=lease, sync=sync))
        except NotFound:
            pass


class Leases:
    """The leases of one store that are held now."""

    def __init__(self, client: Client, *, duration: float = DURATION) -> None:
        self._client = client
        self._duration = duration
        self._held: set[Lease] = set()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._renewing = threading.Thread(target=self._renew, name="containerd-leases", daemon=True)
        self._renewing.start()

    def __repr__(self) -> str:
        return f"<Leases {len(self._held)} held>"

    @contextmanager
    def lease(self, what: str) -> Iterator[Lease]:
        """A lease, held while the block is open. A failure to release it is logged and noted on what else went wrong,
        and never hides that: at worst the lease expires."""
        lease = Lease(self._client, what, self._duration)
        with self._lock:
            self._held.add(lease)
        try:
            yield lease
        except BaseException as error:
            failure = self._released(lease, what)
            if failure is not None:
                error.add_note(f"and its lease could not be released: {failure}")
            raise
        else:
            self._released(lease, what)

    def close(self) -> None:
        """Renews nothing any more."""
        self._closed.set()
        self._renewing.join(1)

    def _released(self, lease: Lease, what: str) -> StreamerError | None:
        with self._lock:
            self._held.discard(lease)
        failure = lease.release()
        if failure is not None:
            log.warning("lease not released", of=what, error=str(failure), expires_in=self._duration)
        return failure

    def _renew(self) -> None:
        # A third of its time: two attempts may fail before anything is lost.
        while not self._closed.wait(self._duration / 3):
            with self._lock:
                held = list(self._held)
            for lease in held:
                try:
                    lease.renew()
                except StreamerError as error:
                    log.warning("lease not renewed", of=lease.what, error=str(error))
