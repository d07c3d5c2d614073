"""What one client may take: connections, requests, exports, and time for its headers."""

from __future__ import annotations

import asyncio
import select
import threading
import time
from collections.abc import Iterator

import pytest
from support.asking import ask, problem, received
from support.clients import Client
from support.keys import Keys
from support.planned import TARGET, Planned, PlannedSite, planned_site

from streamer.access.scope import EVERYTHING
from streamer.errors import TooManyRequests
from streamer.web.limits import Connections, Patience, Shares

DATA = bytes(200_000)
QUICK = Patience(headers=1.5, idle=3)


def test_books_of_connections() -> None:
    books = Connections(limit=4, limit_per_peer=2)
    assert [books.enter(peer) for peer in ("a", "a", "a", "b", "c", "d")] == [True, True, False, True, True, False]
    assert (books.open, books.refused) == (4, 2)
    books.leave("a")
    assert books.enter("d")
    assert not books.enter("a"), "full"
    for peer in ("a", "b", "c", "d"):
        books.leave(peer)
    assert books.open == 0
    assert all(Connections().enter("a") for _ in range(10_000))


def test_rates() -> None:
    now = 0.0
    shares = Shares(rate=2, clock=lambda: now)
    for _ in range(4):
        shares.request("a")
    with pytest.raises(TooManyRequests, match="a asks for more than 2 requests a second") as caught:
        shares.request("a")
    assert caught.value.details == {"retry_after": 1}
    shares.request("b")
    now = 0.5
    shares.request("a")
    with pytest.raises(TooManyRequests):
        shares.request("a")
    now = 100
    for _ in range(4):
        shares.request("a")
    with pytest.raises(TooManyRequests):
        shares.request("a")
    slow = Shares(rate=0.1, clock=lambda: now)
    slow.request("a")
    with pytest.raises(TooManyRequests) as caught:
        slow.request("a")
    assert caught.value.details == {"retry_after": 10}


def test_rates_of_any_number_of_clients_take_bounded_memory() -> None:
    shares = Shares(rate=1, clock=lambda: 0)
    for number in range(20_000):
        shares.request(str(number))
    assert len(shares._left) <= 4096
    for _ in range(10_000):
        Shares().request("unlimited")


def test_exports_of_a_client() -> None:
    shares = Shares(exports=2)
    with shares.export("a"), shares.export("b"):
        with shares.export("a"):
            with pytest.raises(TooManyRequests, match="a has 2 exports open"), shares.export("a"):
                pass
            with shares.export("b"):
                pass
        with shares.export("a"):
            pass
    assert not shares._open


@pytest.fixture
def site() -> Iterator[PlannedSite]:
    with planned_site(Planned(DATA), patience=QUICK) as opened:
        yield opened


@pytest.mark.parametrize(
    "sent", [b"", b"G", b"GET /healthz HTTP/1.1\r\n", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: ", b"\r\n"]
)
def test_headers_that_do_not_come_end_the_connection(site: PlannedSite, sent: bytes) -> None:
    began = time.monotonic()
    with Client(site.port) as client:
        client.send(sent)
        assert client.head().status == 408
        assert client.read(1) == b""
    assert 1.4 < time.monotonic() - began < 60
    assert site.running.connections.slow == 1


def test_headers_that_drip_end_the_connection(site: PlannedSite) -> None:
    """Each byte is progress, and yet it is no request in time; also after one that was answered."""
    for first in (b"", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"):
        with Client(site.port) as client:
            if first:
                client.send(first)
                assert client.answer().status == 200
            client.socket.settimeout(0.02)
            client.send(b"GET /healthz HTTP/1.1\r\nX: ")
            began = time.monotonic()
            while time.monotonic() - began < 60:
                try:
                    client.send(b"a")
                    if client.socket.recv(1000).startswith(b"HTTP/1.1 408"):
                        break
                except TimeoutError:
                    continue
                except ConnectionError:
                    break
            assert 1.4 < time.monotonic() - began < 60


def test_an_idle_connection_ends_later(site: PlannedSite) -> None:
    with Client(site.port) as client:
        client.request("/healthz")
        assert client.answer().status == 200
        began = time.monotonic()
        assert client.read(1) == b""
        assert 2 < time.monotonic() - began < 60


def test_a_long_download_is_not_taken_for_slow_headers(site: PlannedSite) -> None:
    """Neither by itself nor with the beginning of a next request behind it."""
    site.planned.gate = threading.Event()
    for behind in (b"", b"GET /hea"):
        site.planned.gate.clear()
        with Client(site.port) as client:
            client.request(f"{TARGET}?length=unknown")
            client.send(behind)
            timer = threading.Timer(2.0, site.planned.gate.set)
            timer.start()
            assert received(client).body == DATA
            if behind:
                client.send(b"lthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert client.answer().status == 200
            timer.join()


def test_a_slow_upload_is_not_taken_for_slow_headers(site: PlannedSite) -> None:
    with Client(site.port) as client:
        client.request("/v1/images?format=rootfs&name=x:1", "POST", "Content-Length: 20\r\n")
        for _ in range(20):
            client.send(b"x")
            if select.select([client.socket], [], [], 0.1)[0]:  # slower than headers may be
                break
        assert client.head().status != 408


def test_as_many_connections_as_allowed() -> None:
    with planned_site(Planned(DATA), connections=Connections(3)) as site:
        opened = [Client(site.port) for _ in range(3)]
        for client in opened:
            client.request("/healthz")
            assert client.answer().status == 200
        for _ in range(3):
            with Client(site.port) as refused:
                refused.request(TARGET)
                answer = refused.answer()
                assert (answer.status, answer.headers["retry-after"], answer.headers["connection"]) == (
                    503,
                    "5",
                    "close",
                )
        assert site.running.connections.refused == 3
        opened.pop().close()
        deadline = time.monotonic() + 60
        while ask(site.port, TARGET).status != 200:
            assert time.monotonic() < deadline
        for client in opened:
            client.request(TARGET)
            assert received(client).body == DATA
            client.close()
        while site.running.connections.open:
            assert time.monotonic() < deadline


async def test_exports_of_one_client_and_of_others(tmp_path) -> None:
    keys = Keys(tmp_path / "tokens")
    keys.add("one", EVERYTHING)
    keys.add("two", EVERYTHING)
    planned = Planned(DATA, gate=threading.Event(), piece=1000)
    with planned_site(planned, keys=keys.watched(), shares=Shares(exports=2)) as site:

        def asked(name: str, query: str = "?length=unknown") -> int:
            client = Client(site.port)
            clients.append(client)
            client.request(TARGET + query, headers=keys.header(name))
            return client.head().status

        clients: list[Client] = []
        planned.gate.set()
        planned.data = bytes(64 << 20)  # more than the buffers between take
        assert [await asyncio.to_thread(asked, "one") for _ in range(3)] == [200, 200, 429]
        with Client(site.port) as client:
            client.request(TARGET, headers=keys.header("one"))
            answer = client.answer()
            assert answer.headers["retry-after"] == "5"
            assert problem(answer)["code"] == "too_many_requests"
        assert await asyncio.to_thread(asked, "two") == 200
        for client in clients:
            client.close()
        await asyncio.to_thread(site.idle)
        assert await asyncio.to_thread(asked, "one") == 200
        clients[-1].close()


def test_requests_of_a_client(tmp_path) -> None:
    keys = Keys(tmp_path / "tokens")
    keys.add("one", EVERYTHING)
    with planned_site(Planned(DATA), keys=keys.watched(), shares=Shares(rate=0.01)) as site:
        for headers, status in ((keys.header("one"), 200), ("", 401)):
            assert ask(site.port, "/v1/stores", headers=headers).status == status
            answer = ask(site.port, "/v1/stores", headers=headers)
            assert problem(answer)["code"] == "too_many_requests"
            assert 1 <= int(answer.headers["retry-after"]) <= 100
        with Client(site.port) as client:
            # Which is answered before anything else looks at the request.
            client.request("/v1/images", "POST", "Expect: 100-continue\r\nContent-Length: 5\r\n")
            assert client.answer().status == 429
        for _ in range(5):
            assert ask(site.port, "/healthz").status == 200
