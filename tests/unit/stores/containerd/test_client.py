"""Every way in which a containerd can fail to answer is one of streamer's own errors, in bounded time."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.empty_pb2 import Empty

from streamer import errors
from streamer.stores.containerd.api.content_pb2 import Info, ListContentRequest, ListContentResponse
from streamer.stores.containerd.api.leases_pb2 import DeleteRequest
from streamer.stores.containerd.api.namespaces_pb2 import ListNamespacesRequest, ListNamespacesResponse, Namespace
from streamer.stores.containerd.client import Client
from streamer.stores.containerd.methods import DELETE_LEASE, LIST_CONTENT, LIST_NAMESPACES
from streamer.stores.containerd.store import ContainerdStore, namespaces


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("NOT_FOUND", errors.NotFound),
        ("ALREADY_EXISTS", errors.Conflict),
        ("FAILED_PRECONDITION", errors.Conflict),
        ("PERMISSION_DENIED", errors.NotPermitted),
        ("RESOURCE_EXHAUSTED", errors.LimitExceeded),
        ("UNKNOWN", errors.SourceFailed),
        ("INTERNAL", errors.SourceFailed),
        ("UNAVAILABLE", errors.EngineUnreachable),
        ("UNIMPLEMENTED", errors.EngineUnreachable),
        ("CANCELLED", errors.EngineUnreachable),
    ],
)
def test_refusals(engine: Any, refusal: Callable[..., Exception], code: str, kind: type[Exception]) -> None:
    engine.on(DELETE_LEASE, refusal(code, "no /secret/path"))
    client = engine.client()
    with pytest.raises(errors.StreamerError) as raised:
        client.call(DELETE_LEASE, DeleteRequest(id="x"))
    assert type(raised.value) is kind
    assert "the containerd of store s" in str(raised.value)
    assert "/secret" not in str(raised.value)
    assert "/secret/path" in raised.value.__notes__[0]
    client.close()


def test_what_is_asked(engine: Any) -> None:
    engine.on(DELETE_LEASE, Empty())
    engine.on(LIST_CONTENT, [ListContentResponse(info=[Info(digest="a")]), ListContentResponse()])
    client = engine.client(namespace="k8s.io")
    client.call(DELETE_LEASE, DeleteRequest(id="x"), lease="l")
    assert [len(part.info) for part in client.stream(LIST_CONTENT, ListContentRequest())] == [1, 0]
    client.close()
    first, second = [metadata for _, _, metadata in engine.asked]
    assert (first["containerd-namespace"], first["containerd-lease"]) == ("k8s.io", "l")
    assert "containerd-lease" not in second


def test_a_socket_with_any_name(engine: Any) -> None:
    """Names of files are no URLs."""
    odd = engine.socket.parent / "a b%20#ü?"
    odd.symlink_to(engine.socket)
    engine.on(DELETE_LEASE, Empty())
    client = Client(str(odd), "n", "it", 5)
    client.call(DELETE_LEASE, DeleteRequest(id="x"))
    client.close()


def test_closed(engine: Any) -> None:
    client = engine.client()
    client.close()
    client.close()
    for ask in (client.call, client.stream):
        with pytest.raises(errors.EngineUnreachable, match="closed"):
            ask(LIST_CONTENT, ListContentRequest())


def test_closing_breaks_off_what_is_asked(engine: Any) -> None:
    asked, ended = threading.Event(), threading.Event()
    engine.on(DELETE_LEASE, lambda _: asked.set() or ended.wait(60) or Empty())
    client = engine.client(deadline=60)
    failed: list[Exception] = []

    def ask() -> None:
        try:
            client.call(DELETE_LEASE, DeleteRequest(id="x"))
        except errors.StreamerError as error:
            failed.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    assert asked.wait(60)
    client.close()
    thread.join(60)
    ended.set()
    assert [type(error) for error in failed] == [errors.EngineUnreachable]


@contextmanager
def listening(path: Path, answer: bytes | None) -> Iterator[None]:
    """Something else at the socket: accepts, and answers anything with these bytes or not at all."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen()
    taken: list[socket.socket] = []

    def serve() -> None:
        while True:
            try:
                taken.append(server.accept()[0])
            except OSError:
                return
            if answer is not None:
                taken[-1].sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
        for each in (server, *taken):
            each.close()


@pytest.mark.parametrize("answer", [None, b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\0" * 4096, b""])
async def test_what_listens_is_no_containerd(answer: bytes | None, short: Path) -> None:
    path = short / "other"
    with listening(path, answer):
        started = time.monotonic()
        async with ContainerdStore.open("s", str(path), "n", deadline=0.2) as store:
            for ask in (store.images, store.containers, store.layers):
                with pytest.raises(errors.EngineUnreachable, match="store s"):
                    await ask()
        with pytest.raises(errors.EngineUnreachable):
            await namespaces(str(path), deadline=0.2)
        assert time.monotonic() - started < 60


@pytest.mark.parametrize("there", ["nothing", "a file", "a directory", "nobody listens"])
async def test_nobody_there(there: str, short: Path) -> None:
    path = short / "s"
    if there == "a file":
        path.write_bytes(b"x")
    elif there == "a directory":
        path.mkdir()
    elif there == "nobody listens":
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(path))
    async with ContainerdStore.open("s", str(path), "n") as store:
        with pytest.raises(errors.EngineUnreachable) as raised:
            await store.image("x")
    assert str(path) not in str(raised.value)


async def test_it_is_found_once_it_runs(engine: Any) -> None:
    there, hidden = engine.socket, engine.socket.with_name("hidden")
    there.rename(hidden)
    with pytest.raises(errors.EngineUnreachable):
        await namespaces(str(there))
    client = engine.client()
    with pytest.raises(errors.EngineUnreachable):
        client.call(LIST_NAMESPACES, ListNamespacesRequest())
    hidden.rename(there)
    engine.on(LIST_NAMESPACES, ListNamespacesResponse(namespaces=[Namespace(name="b"), Namespace(name="a")]))
    assert await namespaces(str(there)) == ["a", "b"]
    deadline = time.monotonic() + 60
    while True:
        try:
            client.call(LIST_NAMESPACES, ListNamespacesRequest())
            break
        except errors.EngineUnreachable:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    client.close()
