"""Downloads of a paused container that end in every possible way: it runs again, and no watcher is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from support.clients import Client
from support.exports import container
from support.freezers import Engine, FakeFreezer, watchers
from support.leaks import held, settles
from support.serving import served

from streamer.stores.base import Container

SIZE = 32 << 20
"""More than the socket buffers of both sides hold."""


class Store:
    name, location = "real", "real:/"

    def __init__(self, found: Container) -> None:
        self._found = found

    async def container(self, reference: str) -> Container:
        return self._found


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return Engine(tmp_path / "state")


@pytest.fixture
def store(tmp_path: Path, engine: Engine) -> Store:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "big").write_bytes(os.urandom(SIZE))
    return Store(replace(container(tree), freezer=FakeFreezer(engine)))


def _under_way(port: int, query: str = "") -> Client:
    client = Client(port, receive_buffer=4096)
    client.request(f"/v1/containers/c/archive?pause=true{query}", headers="Connection: close\r\n")
    assert client.head().status == 200
    assert client.read(4096)
    return client


WAYS: dict[str, Callable[[Client], None]] = {
    "reset": Client.reset,
    "close": Client.close,
    "stall": lambda client: None,
}


@pytest.mark.parametrize("cancellation", [True, False])
@pytest.mark.parametrize("compression", ["none", "zstd"])
@pytest.mark.parametrize("way", WAYS)
async def test_a_client_that_leaves(store: Store, engine: Engine, way: str, compression: str, cancellation: bool):
    before = held()
    async with served(store, cancellation=cancellation, stall_timeout=2 if way == "stall" else 60) as site:  # type: ignore[arg-type]
        client = await anyio.to_thread.run_sync(_under_way, site.port, f"&compression={compression}")
        assert engine.state == "paused"
        assert len(watchers()) == 1
        WAYS[way](client)
        assert await anyio.to_thread.run_sync(engine.becomes, "running")
        await site.exporter.idle()
        assert watchers() == []
        client.close()
    assert engine.asked.count("resume") == 1
    assert await settles(before) == []


@pytest.mark.parametrize("cancellation", [True, False])
async def test_a_server_that_is_closed(store: Store, engine: Engine, cancellation: bool):
    before = held()
    async with served(store, cancellation=cancellation) as site:  # type: ignore[arg-type]
        client = await anyio.to_thread.run_sync(_under_way, site.port)
        assert engine.state == "paused"
    assert engine.state == "running"
    assert not await anyio.to_thread.run_sync(client.ends_cleanly)
    client.close()
    assert watchers() == []
    assert await settles(before) == []


async def test_one_that_reads_all_of_it(store: Store, engine: Engine):
    def all_of_it(port: int) -> bool:
        with _under_way(port) as client:
            return client.ends_cleanly()

    async with served(store) as site:  # type: ignore[arg-type]
        assert await anyio.to_thread.run_sync(all_of_it, site.port)
        assert engine.state == "running"
        assert watchers() == []


async def test_no_engine_is_an_answer_and_not_a_broken_body(store: Store, engine: Engine):
    def asked(port: int, method: str) -> tuple[int, bytes]:
        with Client(port) as client:
            client.request("/v1/containers/c/diff?pause=true", method=method)
            answer = client.head() if method == "HEAD" else client.answer()
            return answer.status, answer.body

    store._found = replace(store._found, freezer=None)
    async with served(store) as site:  # type: ignore[arg-type]
        assert (await anyio.to_thread.run_sync(asked, site.port, "HEAD"))[0] == 422
        status, body = await anyio.to_thread.run_sync(asked, site.port, "GET")
        assert status == 422
        assert b'"unsupported"' in body


async def test_an_engine_that_does_not_answer_is_503(store: Store, engine: Engine):
    from streamer.errors import EngineUnreachable

    def asked(port: int) -> int:
        with Client(port) as client:
            client.request("/v1/containers/c/archive?pause=true")
            return client.answer().status

    engine.faults["still"] = EngineUnreachable("no answer")
    async with served(store) as site:  # type: ignore[arg-type]
        assert await anyio.to_thread.run_sync(asked, site.port) == 503


_EXPORTS = """
import sys
from dataclasses import replace
from pathlib import Path
import anyio
from support.exports import container
from support.freezers import Engine, FakeFreezer
from streamer.export.container import plan_container
from streamer.export.exporter import exporter
from streamer.export.plan import Options
from streamer.mounts.mount import Snapshot

async def main():
    box = replace(container(sys.argv[1]), freezer=FakeFreezer(Engine(Path(sys.argv[2]))))
    async with exporter() as exports, exports.open(plan_container(box, Options(pause=True))) as stream:
        await stream.__anext__()
        print("under way", flush=True)
        await anyio.sleep_forever()

anyio.run(main)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGSEGV])
def test_a_process_that_is_killed_with_its_whole_group(
    store: Store, engine: Engine, tmp_path: Path, number: signal.Signals
):
    with subprocess.Popen(
        [sys.executable, "-c", _EXPORTS, str(tmp_path / "tree"), str(engine.file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"under way\n"
        assert engine.state == "paused"
        (watcher,) = watchers(process.pid)
        os.killpg(process.pid, number)
        process.wait(60)
    assert engine.becomes("running")
    deadline = time.monotonic() + 60
    while Path(f"/proc/{watcher}").exists():
        assert time.monotonic() < deadline, "the watcher has done its work, but is still there"
        time.sleep(0.01)
