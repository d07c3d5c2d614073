"""Listening: which addresses, with what mode, and what is left when it ends."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from aiohttp import web
from support.leaks import held, settles

from streamer.errors import Conflict, InvalidRequest, NotFound
from streamer.web import server
from streamer.web.server import listening


def application() -> web.Application:
    async def hello(_request: web.Request) -> web.Response:
        return web.Response(text="hello")

    app = web.Application()
    app.router.add_get("/", hello)
    return app


async def greeting(address: str) -> bytes:
    """What the server at an address answers, over a connection of its own."""
    if address.startswith("unix:"):
        reader, writer = await asyncio.open_unix_connection(address.removeprefix("unix:"))
    else:
        host, _, port = address.removeprefix("http://").rpartition(":")
        reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    try:
        writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        return (await reader.read()).rpartition(b"\r\n\r\n")[2]
    finally:
        writer.close()
        await writer.wait_closed()


@contextmanager
def socket_at(path: Path, kind: int = socket.SOCK_STREAM, *, listens: bool = True) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, kind) as made:
        made.bind(str(path))
        if listens and kind != socket.SOCK_DGRAM:
            made.listen(1)
        yield made


async def test_several_addresses_at_once(tmp_path: Path) -> None:
    before = held()
    path = tmp_path / "streamer.sock"
    async with listening(application(), ["127.0.0.1:0", f"unix:{path}", "localhost:0", "127.0.0.2:0"]) as running:
        assert len(set(running.addresses)) == 4
        assert running.addresses[1] == f"unix:{path}"
        for address in running.addresses:
            assert await greeting(address) == b"hello"
    assert not path.exists()
    assert await settles(before) == []
    for address in running.addresses:
        with pytest.raises(OSError):
            await greeting(address)


async def test_ipv6_loopback() -> None:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            pass
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    async with listening(application(), ["[::1]:0"]) as running:
        assert running.addresses[0].startswith("http://[::1]:")
        assert await greeting(running.addresses[0]) == b"hello"


@pytest.mark.parametrize("mask", [0, 0o022, 0o077])
async def test_a_unix_socket_is_its_owners_from_the_first_moment(
    mask: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes = []

    class Watched(socket.socket):
        def bind(self, address: str) -> None:  # type: ignore[override]
            super().bind(address)
            modes.append(stat.S_IMODE(os.lstat(address).st_mode))

    monkeypatch.setattr(server.socket, "socket", Watched)
    path = tmp_path / "streamer.sock"
    before = os.umask(mask)
    try:
        async with listening(application(), [f"unix:{path}"]):
            assert os.umask(mask) == mask, "the process's umask is left alone"
            assert modes == [0o600]
            assert stat.S_IMODE(path.lstat().st_mode) == 0o600
    finally:
        os.umask(before)


async def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "streamer.sock"
    for listens in (True, False):
        with socket_at(path, listens=listens):
            pass
        assert path.is_socket()
        async with listening(application(), [f"unix:{path}"]) as running:
            assert await greeting(running.addresses[0]) == b"hello"
        assert not path.exists()


async def test_a_live_socket_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "streamer.sock"
    async with listening(application(), [f"unix:{path}"]) as first:
        identity = path.lstat().st_ino
        with pytest.raises(Conflict, match="in use"):
            async with listening(application(), [f"unix:{path}"]):
                pass
        assert path.lstat().st_ino == identity
        assert await greeting(first.addresses[0]) == b"hello"


async def test_a_server_that_hangs_is_alive(tmp_path: Path) -> None:
    """Its queue is full: nobody accepts, and a blocking connect would wait for ever."""
    path = tmp_path / "streamer.sock"
    with socket_at(path):
        waiting = []
        try:
            while True:
                client = socket.socket(socket.AF_UNIX)
                waiting.append(client)
                client.setblocking(False)
                client.connect(str(path))
        except BlockingIOError:
            pass
        with pytest.raises(Conflict, match="in use"):
            async with listening(application(), [f"unix:{path}"]):
                pass
        for client in waiting:
            client.close()
    assert path.is_socket()


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_SEQPACKET])
async def test_a_live_socket_of_another_type_is_left_alone(kind: int, tmp_path: Path) -> None:
    path = tmp_path / "journal.sock"
    with socket_at(path, kind):
        with pytest.raises(Conflict, match="in use"):
            async with listening(application(), [f"unix:{path}"]):
                pass
        assert path.is_socket()


async def test_what_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "precious"
    file.write_text("precious")
    (tmp_path / "link").symlink_to(file)
    (tmp_path / "dangling").symlink_to("nowhere")
    for name in ("precious", "link", "dangling", "."):
        with pytest.raises(Conflict):
            async with listening(application(), [f"unix:{tmp_path / name}"]):
                pass
    assert file.read_text() == "precious"
    assert sorted(os.listdir(tmp_path)) == ["dangling", "link", "precious"]


async def test_a_socket_that_took_its_place_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "streamer.sock"
    async with listening(application(), [f"unix:{path}"]):
        path.unlink()
        successor = listening(application(), [f"unix:{path}"])
        running = await successor.__aenter__()
    assert await greeting(running.addresses[0]) == b"hello"
    await successor.__aexit__(None, None, None)
    assert not path.exists()


REFUSED = {
    "0.0.0.0:80": "other machines",
    "192.168.1.1:8080": "other machines",
    "10.0.0.1:0": "other machines",
    "[::]:80": "other machines",
    "[fe80::1]:80": "other machines",
    "[::ffff:192.168.1.1]:80": "other machines",
    "169.254.169.254:80": "other machines",
    "example.org:80": "IP address or localhost",
    "localhost.evil.org:80": "IP address or localhost",
    "127.1:80": "IP address or localhost",
    "2130706433:80": "IP address or localhost",
    "0x7f000001:80": "IP address or localhost",
    "*:80": "IP address or localhost",
    "127.0.0.1": "neither",
    "127.0.0.1:": "neither",
    "127.0.0.1:http": "neither",
    "127.0.0.1:-1": "neither",
    "127.0.0.1:65536": "neither",
    "8080": "neither",
    "": "neither",
    "unix:": "without a path",
}


@pytest.mark.parametrize("address", REFUSED)
async def test_addresses_that_are_refused(address: str, tmp_path: Path) -> None:
    before = held()
    with pytest.raises(InvalidRequest, match=REFUSED[address]) as raised:
        async with listening(application(), ["127.0.0.1:0", f"unix:{tmp_path}/s", address]):
            pass
    assert raised.value.details == {"parameter": "listen"}
    assert os.listdir(tmp_path) == []
    assert await settles(before) == []


async def test_an_address_in_use_leaves_nothing_of_the_others(tmp_path: Path) -> None:
    before = held()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for last in (
            f"127.0.0.1:{taken.getsockname()[1]}",
            f"unix:{tmp_path}/missing/s",
            f"unix:{tmp_path}/{'s' * 200}",
            f"unix:{tmp_path}/s",  # its own
        ):
            with pytest.raises((Conflict, NotFound), match="cannot listen on"):
                async with listening(application(), ["127.0.0.1:0", f"unix:{tmp_path}/s", last]):
                    pass
            assert os.listdir(tmp_path) == []
    assert await settles(before) == []


async def test_closed_listeners_refuse_while_open_connections_go_on(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with listening(application(), ["127.0.0.1:0", f"unix:{path}"]) as running:
        reader, writer = await asyncio.open_unix_connection(str(path))
        await running.close_listeners()
        for address in running.addresses:
            with pytest.raises(OSError):
                await greeting(address)
        writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert (await reader.read()).endswith(b"hello")
        writer.close()
        await writer.wait_closed()
