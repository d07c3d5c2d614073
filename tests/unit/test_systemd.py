"""What is said to a service manager, and what is taken over from it."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from streamer import systemd
from streamer.errors import InvalidRequest
from streamer.systemd import Notifier, inherited


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        name = f"\0streamer-test-{os.getpid()}" if request.param == "abstract" else str(tmp_path / "notify")
        made.bind(name)
        made.settimeout(60)
        yield made, name.replace("\0", "@")


def test_what_is_told(manager: tuple[socket.socket, str]) -> None:
    listener, name = manager
    notifier = Notifier({"NOTIFY_SOCKET": name})
    notifier.ready("serving at x")
    notifier.reloading()
    notifier.stopping("waiting")
    assert listener.recv(1000) == b"READY=1\nSTATUS=serving at x"
    first, second = listener.recv(1000).decode().split("\n")
    assert first == "RELOADING=1"
    assert second.removeprefix("MONOTONIC_USEC=").isdecimal()
    assert listener.recv(1000) == b"STOPPING=1\nSTATUS=waiting"


def test_nobody_to_tell(tmp_path: Path) -> None:
    Notifier({}).ready("x")
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready("x")


async def test_the_watchdog_hears_twice_in_each_period(manager: tuple[socket.socket, str]) -> None:
    listener, name = manager
    notifier = Notifier({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "200000", "WATCHDOG_PID": str(os.getpid())})
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(notifier.watchdog)
        began = anyio.current_time()
        for _ in range(4):
            assert await anyio.to_thread.run_sync(listener.recv, 100) == b"WATCHDOG=1"
        assert 0.25 < anyio.current_time() - began < 60
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize(
    "environment",
    [{}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "x"}, {"WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"}],
)
async def test_no_watchdog(environment: dict[str, str]) -> None:
    with anyio.fail_after(60):
        await Notifier(environment).watchdog()


@pytest.mark.parametrize(
    "environment", [{}, {"LISTEN_FDS": "1"}, {"LISTEN_FDS": "1", "LISTEN_PID": "1"}, {"LISTEN_PID": str(os.getpid())}]
)
def test_sockets_of_somebody_else_are_left_alone(environment: dict[str, str]) -> None:
    assert inherited(environment) == []


def test_sockets_that_are_handed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as plain:
        first = listener.dup().detach()
        monkeypatch.setattr(systemd, "_FIRST", first)
        os.set_inheritable(first, True)
        environment = {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid())}
        (found,) = inherited(environment)
        assert found.getsockname() == listener.getsockname()
        assert not os.get_inheritable(found.fileno())
        found.close()
        monkeypatch.setattr(systemd, "_FIRST", plain.dup().detach())
        with pytest.raises(InvalidRequest, match="does not listen"):
            inherited(environment)
        monkeypatch.setattr(systemd, "_FIRST", 10_000)
        with pytest.raises(InvalidRequest, match="not as many sockets"):
            inherited(environment)
