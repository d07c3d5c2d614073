"""How bodies leave: past the transport, and yet in order, framed, watched over, and without keeping others waiting."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import socket
import time
from collections.abc import Iterator

import pytest
from support.asking import ask, problem, received
from support.certificates import SecurePort
from support.clients import Client
from support.planned import TARGET, Planned, PlannedSite, installed, planned_site
from support.serving import served

from streamer.web.outlet import Outlet

DATA = random.Random(3).randbytes(6_000_000)
TARGETS = [f"{TARGET}?length=known", f"{TARGET}?length=unknown"]


@pytest.fixture(params=[False, True], ids=["plain", "TLS"])
def site(request: pytest.FixtureRequest) -> Iterator[PlannedSite]:
    """Everything here holds for both ways out."""
    with planned_site(Planned(DATA), tls=request.param) as opened:
        yield opened
        opened.idle()


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("piece", [1, 511, 4096, 100_000, 524_287, 524_288, 524_289, 1 << 20, 6_000_000])
def test_pieces_of_every_size(site: PlannedSite, piece: int, target: str) -> None:
    site.planned.piece = piece
    site.planned.data = DATA[: max(2000 * piece, 1) if piece < 3000 else None]
    answer = ask(site.port, target)
    assert answer.complete
    assert answer.body == site.planned.data


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("read", [1000, 70_000, 1_000_003])
def test_a_socket_that_takes_little_at_a_time(site: PlannedSite, target: str, read: int) -> None:
    site.planned.piece = 1 << 20
    body = bytearray()
    with Client(site.port, receive_buffer=4096) as client:
        client.request(target, headers="Connection: close\r\n")
        assert client.head().status == 200
        while part := client.read(read):
            body += part
    if target == TARGETS[0]:
        assert body == DATA
        return
    plain = bytearray()
    while body:
        line, _, body = body.partition(b"\r\n")
        size = int(line, 16)
        plain += body[:size]
        assert body[size : size + 2] == b"\r\n"
        del body[: size + 2]
    assert plain == DATA


def test_what_an_answer_before_left_in_the_transport_leaves_first(site: PlannedSite) -> None:
    """Requests sent in one go: the small answers fill the socket and more, and only then comes the archive."""
    with Client(site.port, receive_buffer=4096) as client:
        described = ask(site.port, "/openapi.json").body
        small = 12_000_000 // len(described)  # more than a socket takes while nobody reads
        for _ in range(small):
            client.request("/openapi.json")
        client.request(TARGET)
        client.request(TARGET, headers="Range: bytes=9-99\r\n")
        for _ in range(small):
            assert received(client).body == described
        assert received(client).body == DATA
        assert received(client).body == DATA[9:100]


@pytest.mark.parametrize("target", TARGETS)
def test_a_connection_serves_one_archive_after_the_other(site: PlannedSite, target: str) -> None:
    with Client(site.port) as client:
        for _ in range(3):
            client.request(target)
            assert received(client).body == DATA
            client.request(target, "HEAD")
            assert received(client, "HEAD").status == 200
            client.request("/healthz")
            assert received(client).status == 200


def test_no_descriptor_stays_open(site: PlannedSite) -> None:
    def sockets() -> int:
        found = 0
        for number in os.listdir("/proc/self/fd"):
            try:
                found += os.readlink(f"/proc/self/fd/{number}").startswith("socket:")
            except FileNotFoundError:
                continue
        return found

    with Client(site.port) as client:
        client.request("/healthz")
        received(client)
        before = sockets()
        for target in (*TARGETS, TARGETS[0]):
            client.request(target)
            assert received(client).body == DATA
            end = time.monotonic() + 60  # the last byte is here before the server has seen to the rest
            while sockets() > before and time.monotonic() < end:
                time.sleep(0.001)
            assert sockets() <= before, "one of a test before may have gone meanwhile"


def test_no_descriptor_left_to_send_with_is_a_problem(site: PlannedSite, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_self: socket.socket) -> socket.socket:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patch:
        patch.setattr(socket.socket, "dup", refused)
        answer = ask(site.port, TARGET)
    if isinstance(site.port, SecurePort):
        assert answer.body == DATA, "this way needs none"
        return
    members = problem(answer)
    assert (members["status"], members["code"]) == (503, "busy")
    assert "Too many open files" in members["detail"]
    assert ask(site.port, TARGET).body == DATA


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
async def test_a_fast_client_does_not_have_the_loop_for_itself(tls: bool) -> None:
    """Between two pieces everybody else has a turn, even if neither the export nor the client is ever waited for."""
    planned = Planned(DATA * 5, piece=len(DATA) * 5)  # one chunk of 30 MB, so that only its pieces can give way
    turns, least = 0, 0
    with installed(planned) as store:
        async with served(store, tls=tls) as running:

            async def count() -> None:
                nonlocal turns
                while True:
                    await asyncio.sleep(0)
                    turns += 1

            counting = asyncio.create_task(count())
            original = Outlet.write

            async def write(outlet: Outlet, chunk: bytes) -> None:
                nonlocal least
                before = turns
                await original(outlet, chunk)
                least = turns - before

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(Outlet, "write", write)
                answer = await asyncio.to_thread(ask, running.port, TARGET)
            counting.cancel()
    assert answer.body == DATA * 5
    assert least >= len(DATA) * 5 // (1 << 20)
