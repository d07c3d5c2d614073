"""Leases: what they hold, how they are renewed, and that they go away whatever happens."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from google.protobuf.empty_pb2 import Empty

from streamer.errors import EngineUnreachable, SourceChanged, SourceFailed
from streamer.stores.containerd.api.leases_pb2 import CreateResponse
from streamer.stores.containerd.api.snapshots_pb2 import StatSnapshotResponse, ViewSnapshotResponse
from streamer.stores.containerd.api.types_pb2 import Mount
from streamer.stores.containerd.leases import Lease, Leases
from streamer.stores.containerd.methods import (
    ADD_RESOURCE,
    CREATE_LEASE,
    DELETE_LEASE,
    REMOVE_SNAPSHOT,
    STAT_SNAPSHOT,
    VIEW_SNAPSHOT,
)


@pytest.fixture
def obliging(engine: Any) -> Any:
    engine.on(CREATE_LEASE, CreateResponse())
    for method in (ADD_RESOURCE, DELETE_LEASE, REMOVE_SNAPSHOT):
        engine.on(method, Empty())
    engine.on(STAT_SNAPSHOT, StatSnapshotResponse())
    engine.on(VIEW_SNAPSHOT, ViewSnapshotResponse(mounts=[Mount(type="bind")]))
    return engine


@contextmanager
def leases(engine: Any, **options: Any) -> Iterator[Leases]:
    client = engine.client()
    made = Leases(client, **options)
    try:
        yield made
    finally:
        client.close()
        made.close()


@pytest.mark.usefixtures("tokens")
def test_a_lease(obliging: Any) -> None:
    with leases(obliging) as made:
        with made.lease("it") as lease:
            lease.add("content", "sha256:1")
            assert [mount.type for mount in lease.view("overlayfs", "sha256:2")] == ["bind"]
            lease.check()
        assert obliging.order() == ["Create", "AddResource", "View", "Stat", "Remove", "Delete"]
        create, add, view, stat, remove, delete = [question for _, question, _ in obliging.asked]
        expires = datetime.fromisoformat(create.labels["containerd.io/gc.expire"])
        assert 590 < (expires - datetime.now(UTC)).total_seconds() <= 600
        assert (add.id, add.resource.type, add.resource.id) == ("streamer-0", "content", "sha256:1")
        assert (view.snapshotter, view.key, view.parent) == ("overlayfs", "streamer-1", "sha256:2")
        assert obliging.asked[2][2]["containerd-lease"] == "streamer-0"
        assert stat.key == remove.key == "streamer-1"
        assert (delete.id, delete.sync) == ("streamer-0", True)


@pytest.mark.usefixtures("tokens")
def test_renewing_takes_over_what_is_held(obliging: Any) -> None:
    lease = Lease(obliging.client(), "it", 600)
    lease.add("content", "sha256:1")
    lease.view("overlayfs", "sha256:2")
    obliging.asked.clear()
    lease.renew()
    assert obliging.order() == ["Create", "AddResource", "AddResource", "Delete"]
    added = [(each.id, each.resource.type, each.resource.id) for each in obliging.questions(ADD_RESOURCE)]
    assert added == [
        ("streamer-2", "content", "sha256:1"),
        ("streamer-2", "snapshots/overlayfs", "streamer-1"),
    ]
    (deleted,) = obliging.questions(DELETE_LEASE)
    assert (deleted.id, deleted.sync) == ("streamer-0", False)
    obliging.asked.clear()
    assert lease.release() is None
    (deleted,) = obliging.questions(DELETE_LEASE)
    assert deleted.id == "streamer-2"
    obliging.asked.clear()
    lease.renew()
    assert obliging.asked == []


def test_leases_are_renewed_while_they_are_held(obliging: Any, refusal: Callable[..., Exception]) -> None:
    renewed = threading.Event()
    times: list[int] = []

    def create(_: Any) -> CreateResponse:
        times.append(1)
        if len(times) == 2:
            raise refusal("UNKNOWN")  # tried again at the next time
        if len(times) == 4:
            renewed.set()
        return CreateResponse()

    obliging.on(CREATE_LEASE, create)
    with leases(obliging, duration=0.06) as made, made.lease("it"):
        assert renewed.wait(60)
    assert len(obliging.questions(DELETE_LEASE)) >= 2


def test_closing_ends_the_thread(obliging: Any) -> None:
    with leases(obliging):
        assert "containerd-leases" in [thread.name for thread in threading.enumerate()]
    assert "containerd-leases" not in [thread.name for thread in threading.enumerate()]


@pytest.mark.usefixtures("tokens")
@pytest.mark.parametrize("method", [REMOVE_SNAPSHOT, DELETE_LEASE])
def test_a_release_that_fails_hides_nothing(
    obliging: Any, refusal: Callable[..., Exception], method: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    obliging.on(method, refusal("INTERNAL"))
    with leases(obliging) as made:
        with made.lease("it") as lease:
            lease.view("overlayfs", "x")
        with pytest.raises(ValueError, match="mine") as raised, made.lease("it") as lease:
            lease.view("overlayfs", "x")
            raise ValueError("mine")
        assert "could not be released" in raised.value.__notes__[0]


@pytest.mark.parametrize("method", [REMOVE_SNAPSHOT, DELETE_LEASE])
def test_what_is_gone_needs_no_release(obliging: Any, refusal: Callable[..., Exception], method: Any) -> None:
    obliging.on(method, refusal("NOT_FOUND"))
    lease = Lease(obliging.client(), "it", 600)
    lease.view("overlayfs", "x")
    assert lease.release() is None


def test_what_was_removed(obliging: Any, refusal: Callable[..., Exception]) -> None:
    lease = Lease(obliging.client(), "layer 1 of store s", 600)
    lease.view("overlayfs", "x")
    obliging.on(STAT_SNAPSHOT, refusal("NOT_FOUND"))
    with pytest.raises(SourceChanged, match="layer 1"):
        lease.check()
    obliging.on(VIEW_SNAPSHOT, refusal("NOT_FOUND"))
    with pytest.raises(SourceChanged, match="layer 1"):
        lease.view("overlayfs", "x")


def test_nothing_is_held_that_cannot_be_leased(obliging: Any, refusal: Callable[..., Exception]) -> None:
    obliging.on(CREATE_LEASE, refusal("INTERNAL"))
    with leases(obliging) as made:
        with pytest.raises(SourceFailed), made.lease("it"):
            raise AssertionError
        assert repr(made) == "<Leases 0 held>"


def test_an_engine_that_hangs_is_waited_for_once(obliging: Any) -> None:
    ended = threading.Event()
    for method in (REMOVE_SNAPSHOT, DELETE_LEASE):
        obliging.on(method, lambda _: ended.wait(60) and Empty())
    lease = Lease(obliging.client(deadline=1), "it", 600)
    for _ in range(3):
        lease.view("overlayfs", "x")
    started = time.monotonic()
    assert isinstance(lease.release(), EngineUnreachable)
    assert time.monotonic() - started < 3, "each of the four was waited for"
    ended.set()
