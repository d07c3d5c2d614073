"""Unix sockets that several servers want at once: one has it, and nobody takes it from whoever lives."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest

from streamer.errors import Conflict
from streamer.web import sockets
from streamer.web.addresses import OWNER_ONLY, Address

ROUNDS = 40
SERVERS = 4
IN_USE = b"i"
LISTENS = b"l"


def bound(path: Path) -> socket.socket:
    return asyncio.run(sockets.bound(Address("", 0, str(path)), OWNER_ONLY))


def stale(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))
        made.listen(1)


@contextmanager
def servers(path: Path, count: int) -> Iterator[tuple[int, int]]:
    """So many processes that live while the block is open. Each binds once it reads a byte of what is written to the
    first descriptor, and writes one, what came of it, to be read from the second."""
    go, start = os.pipe()
    told, say = os.pipe()
    children = []
    try:
        for _ in range(count):
            child = os.fork()
            if child == 0:
                _bind(path, go, say)
            children.append(child)
        yield start, told
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        for fd in (go, start, told, say):
            os.close(fd)


def _bind(path: Path, go: int, say: int) -> NoReturn:
    try:
        os.read(go, 1)
        try:
            listener = bound(path)
        except Conflict as error:
            os.write(say, IN_USE if "the socket is in use by another server" in str(error) else b"?")
        else:
            os.write(say, LISTENS)
            listener.detach()
        signal.pause()
    finally:
        os._exit(1)


@pytest.mark.parametrize("before", ["nothing", "a stale socket"])
def test_of_servers_that_start_at_once_one_wins(before: str, tmp_path: Path) -> None:
    path = tmp_path / "s"
    for _ in range(ROUNDS):
        if before == "a stale socket":
            stale(path)
        with servers(path, SERVERS) as (start, told):
            os.write(start, b"g" * SERVERS)
            answers = b"".join(os.read(told, 1) for _ in range(SERVERS))
            assert sorted(answers) == sorted(IN_USE * (SERVERS - 1) + LISTENS)
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(path))  # whoever won can be reached
        assert os.listdir(tmp_path) == ["s"], "who is killed leaves nothing but the socket"
        path.unlink()


def test_a_socket_that_does_not_listen_yet_is_in_use(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as starting:
        starting.bind(str(path))
        with pytest.raises(Conflict, match="the socket is in use by another server"):
            bound(path)
        starting.listen(1)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))


def test_looking_at_a_socket_leaves_nothing_in_its_queue(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with bound(path) as listener:
        listener.setblocking(False)
        with pytest.raises(Conflict):
            bound(path)
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_what_is_no_socket_is_named_as_such(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("precious")
    with pytest.raises(Conflict, match=f"cannot listen on unix:{tmp_path}/s: there is something else than a socket"):
        bound(tmp_path / "s")
    assert (tmp_path / "s").read_text() == "precious"


async def test_a_successor_with_the_same_number_keeps_its_socket(tmp_path: Path) -> None:
    """File systems use the numbers of removed files again, so the number alone does not tell whose socket it is."""
    path = tmp_path / "s"
    with await sockets.bound(Address("", 0, str(path)), OWNER_ONLY):
        await sockets.remove(str(path), sockets.identity(str(path)))
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
    await sockets.remove(str(path), (0, 0))
    assert path.is_socket(), "another one took its place"
    await sockets.remove(str(path), sockets.identity(str(path)))
    assert os.listdir(tmp_path) == []
    await sockets.remove(str(path), (0, 0))  # gone already


async def test_a_directory_that_somebody_keeps_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "_LOCKED", 0.05)
    stale(tmp_path / "s")
    address, ours = Address("", 0, str(tmp_path / "s")), sockets.identity(str(tmp_path / "s"))
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        with pytest.raises(Conflict, match=f"another process keeps {tmp_path} locked"):
            await sockets.bound(address, OWNER_ONLY)
        await sockets.remove(str(tmp_path / "s"), ours)
        assert (tmp_path / "s").is_socket()
    finally:
        os.close(fd)
    (await sockets.bound(address, OWNER_ONLY)).close()


async def test_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (await sockets.bound(Address("", 0, "s"), OWNER_ONLY)).close()
    assert os.listdir(tmp_path) == ["s"]
