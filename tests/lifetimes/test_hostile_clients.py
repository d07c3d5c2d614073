"""Hundreds of clients that take nothing, send nothing or are gone: they end in time, and nobody else notices."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from functools import partial

import anyio
import anyio.to_thread
import pytest
from support import networks
from support.clients import Client
from support.leaks import held, settles
from support.planned import TARGET, Planned, installed
from support.serving import Served, served

from streamer.web.limits import Connections, Patience

STALLED, SLOW, GONE = 200, 500, 100
STALL = 8.0
"""Seconds; long enough for all of them to come before the first one is broken off."""
PATIENCE = Patience(headers=8.0, idle=10.0, unacknowledged=12.0)
VANISHING = "127.9.9.9"
RATE = 16 << 20
"""Bytes a second that the normal download reads."""

pytestmark = [pytest.mark.root, pytest.mark.slow]


def test_they_are_gone_in_time_while_a_download_keeps_its_pace() -> None:
    if reason := networks.possible():
        pytest.skip(reason)
    networks.alone(lambda: anyio.run(siege))


async def siege() -> None:
    before = held()
    planned = Planned(bytes(RATE * 24), piece=256 << 10)
    with installed(planned) as store, contextlib.ExitStack() as clients:
        async with served(
            store,
            stall_timeout=STALL,
            limit=STALLED + GONE + 10,
            patience=PATIENCE,
            connections=Connections(STALLED + SLOW + GONE + 10),
        ) as running:
            waits: list[float] = []
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(anyio.to_thread.run_sync, partial(download, running.port, waits))
                await besiege(running, clients)
                tasks.start_soon(free_in_time, running)
            assert len(waits) == len(planned.data) >> 20
            assert max(waits) < STALL / 2, "the download stood still for so many seconds"
            clients.close()
            with anyio.fail_after(60):
                await running.exporter.idle()
                while running.connections.open:
                    await anyio.sleep(0.01)
    assert await settles(before) == []


async def besiege(running: Served, clients: contextlib.ExitStack) -> None:
    """Everybody connects. Half of those that will be gone are in the middle of a download, half between requests."""
    slow = []
    for number in range(STALLED + SLOW + GONE):
        source = VANISHING if number < GONE else "127.0.0.1"
        opened = clients.enter_context(connected(running.port, source))
        if number < GONE // 2:
            opened.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        elif number < GONE + STALLED:
            opened.sendall(f"GET {TARGET}?length=unknown HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        else:
            opened.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n")
            opened.setblocking(False)
            slow.append(opened)
        await anyio.sleep(0)
    with anyio.fail_after(60):
        while running.exporter.statistics().open < STALLED + GONE // 2 + 1:
            await anyio.sleep(0.01)
        while running.connections.open + running.connections.slow < STALLED + SLOW + GONE + 1:
            await anyio.sleep(0.01)
    networks.drop_from(VANISHING)
    began = time.monotonic()
    while running.connections.slow < SLOW:
        for each in slow:
            with contextlib.suppress(ConnectionError, BlockingIOError):
                each.send(b"X: a\r\n")
        await anyio.sleep(0.2)
        assert time.monotonic() - began < PATIENCE.headers + 30, running.connections


async def free_in_time(running: Served) -> None:
    """Only the normal download is left once every time-out has passed."""
    with anyio.fail_after(max(2 * STALL, PATIENCE.idle) + 30):
        while running.connections.open > 1 or running.exporter.statistics().open > 1:
            await anyio.sleep(0.02)


@contextlib.contextmanager
def connected(port: int, source: str) -> Iterator[socket.socket]:
    with socket.socket() as opened:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        opened.settimeout(60)
        opened.bind((source, 0))
        opened.connect(("127.0.0.1", port))
        yield opened


def download(port: int, waits: list[float]) -> None:
    """Reads a whole archive at its rate; `waits` gets the seconds that each MiB took beyond."""
    with Client(port) as client:
        client.request(f"{TARGET}?length=known", headers="Connection: close\r\n")
        answer = client.head()
        assert answer.status == 200
        left, due = int(answer.headers["content-length"]), time.monotonic()
        while left:
            size = min(left, 1 << 20)
            assert len(client.read(size)) == size
            left -= size
            due += size / RATE
            late = time.monotonic() - due
            waits.append(max(late, 0))
            if late < 0:
                time.sleep(-late)
            else:
                due += late
