"""How bodies leave: past the transport, and yet in order, framed, watched over, and without keeping others waiting."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import socket
import tempfile
import time
from collections.abc import Iterator

import pytest
from support.asking import ask, problem, received
from support.certificates import SecurePort
from support.clients import Client
from support.planned import TARGET, Planned, PlannedSite, installed, planned_site
from support.serving import served

from streamer.errors import SourceChanged
from streamer.export.exporter import ExportStream
from streamer.web.outlet import Outlet

DATA = random.Random(3).randbytes(6_000_000)
TARGETS = [f"{TARGET}?length=known", f"{TARGET}?length=unknown"]


@pytest.fixture(params=["plain", "plain-regions", "TLS", "TLS-regions"])
def site(request: pytest.FixtureRequest) -> Iterator[PlannedSite]:
    """Everything here holds for both ways out, of bytes as well as of what lies in a file."""
    with tempfile.TemporaryFile() as file, planned_site(Planned(DATA), tls="TLS" in request.param) as opened:
        if "regions" in request.param:
            file.write(DATA)
            file.flush()
            opened.planned.lies_in = file.fileno()
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
            original = Outlet.send

            async def send(outlet: Outlet, source: ExportStream) -> None:
                nonlocal least
                before = turns
                await original(outlet, source)
                least = turns - before

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(Outlet, "send", send)
                answer = await asyncio.to_thread(ask, running.port, TARGET)
            counting.cancel()
    assert answer.body == DATA * 5
    assert least >= len(DATA) * 5 // (1 << 20)


@pytest.mark.parametrize("target", TARGETS)
class TestRegions:
    """What lies in a file is sent by the kernel, and where that cannot be, or goes wrong, it is read."""

    @pytest.fixture
    def region_site(self) -> Iterator[PlannedSite]:
        with tempfile.TemporaryFile() as file, planned_site(Planned(DATA, piece=1 << 20)) as opened:
            file.write(DATA)
            file.flush()
            opened.planned.lies_in = file.fileno()
            yield opened
            opened.idle()

    def test_the_kernel_sends_all_but_the_ends(
        self, region_site: PlannedSite, target: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sent, original = 0, os.sendfile

        def counted(*arguments: int) -> int:
            nonlocal sent
            count = original(*arguments)
            sent += count
            return count

        monkeypatch.setattr(os, "sendfile", counted)
        assert ask(region_site.port, target).body == DATA
        # The first chunk waits in the pipe, the last one of a known length is held back; without one, none is.
        assert sent >= len(DATA) - (2 << 20)

    @pytest.mark.parametrize("after", [0, 1, 300_000])
    def test_a_file_that_cannot_be_sent_so(
        self, region_site: PlannedSite, target: str, after: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        original, calls = os.sendfile, 0

        def refused(out: int, file: int, offset: int, count: int) -> int:
            nonlocal calls
            calls += 1
            if after and calls % 2:
                return original(out, file, offset, min(count, after))
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

        monkeypatch.setattr(os, "sendfile", refused)
        assert ask(region_site.port, target).body == DATA
        assert calls

    def test_a_file_that_was_cut_short(self, region_site: PlannedSite, target: str) -> None:
        assert region_site.planned.lies_in is not None
        os.ftruncate(region_site.planned.lies_in, 3_000_000)
        answer = ask(region_site.port, target)
        assert answer.status == 200
        assert not answer.complete, "a clean end of a file that was cut short"
        assert answer.body == DATA[: len(answer.body)]

    def test_a_file_that_was_written_to(self, region_site: PlannedSite, target: str) -> None:
        calls = 0

        def changed() -> None:
            nonlocal calls
            calls += 1
            if calls == 3:
                raise SourceChanged("it was written meanwhile")

        region_site.planned.settled = changed
        answer = ask(region_site.port, target)
        assert not answer.complete, "a clean end although the file was written to"
        assert calls == 3
