"""A whole server process: drain, a second signal, SIGKILL. Afterwards nothing of it is mounted anywhere."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.clients import Client
from support.commandline import run
from support.processes import Serving, mounts_of

pytestmark = pytest.mark.root

TARGET = "/v1/containers/box/archive"
SIZE = 48 << 20
"""More than the socket buffers of both sides hold, so that an unread download is really under way."""


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An embedded store with a container of two layers and some 48 MiB."""
    root = tmp_path_factory.mktemp("process")
    tree = root / "tree"
    (tree / "data").mkdir(parents=True)
    (tree / "data" / "big").write_bytes(os.urandom(1 << 20) * (SIZE >> 20))
    subprocess.run(["tar", "-C", str(tree), "-cf", str(root / "rootfs.tar"), "."], check=True)
    made = root / "state"
    for command in (
        ("import", root / "rootfs.tar", "--name", "big:1"),
        ("create", "big:1", "--name", "box"),
    ):
        result = run(*command, "--state", made)
        assert result.returncode == 0, result.stderr
    return made


@pytest.fixture
def serving(state: Path) -> Iterator[Callable[..., Serving]]:
    opened: list[Serving] = []

    def make(**environment: str) -> Serving:
        opened.append(Serving(state, **environment))
        return opened[-1]

    yield make
    for each in opened:
        each.__exit__()
    assert mounts_of(state) == []


def under_way(port: int) -> Client:
    client = Client(port)
    client.request(TARGET)
    assert client.head().status == 200
    assert len(client.read(1 << 16)) == 1 << 16
    return client


def test_an_idle_server_ends_at_once(serving):
    server = serving()
    server.process.send_signal(signal.SIGINT)
    assert server.ends() == 0


def test_drain_lets_an_open_download_finish(serving):
    server = serving()
    with under_way(server.port) as client:
        server.process.terminate()
        server.refuses()
        assert client.ends_cleanly()
    assert server.ends() == 0


def test_drain_refuses_new_exports_on_open_connections(serving):
    server = serving(STREAMER_DRAIN_TIMEOUT="100")
    with under_way(server.port) as client, Client(server.port) as kept:
        kept.request("/healthz")
        assert kept.answer().status == 200
        server.process.terminate()
        server.refuses()
        kept.request(TARGET, method="GET")
        refused = kept.answer()
        assert refused.status == 503
        assert json.loads(refused.body)["code"] == "draining"
        assert int(refused.headers["retry-after"]) > 0
        kept.request("/readyz")
        assert kept.answer().status == 503
        assert client.ends_cleanly()
    assert server.ends() == 0


def test_a_drain_that_takes_too_long_breaks_what_is_open(serving):
    server = serving(STREAMER_DRAIN_TIMEOUT="0.3")
    with under_way(server.port) as client:
        server.process.terminate()
        assert server.ends() == 1
        assert not client.ends_cleanly()


def test_a_second_signal_breaks_what_is_open(serving):
    server = serving(STREAMER_DRAIN_TIMEOUT="600")
    with under_way(server.port) as client:
        server.process.terminate()
        server.refuses()
        server.process.terminate()
        assert server.ends() == 1
        assert not client.ends_cleanly()


def test_sigkill_leaves_nothing_and_the_next_start_serves(serving, state):
    server = serving()
    with under_way(server.port) as client:
        server.process.kill()
        assert server.ends() == -signal.SIGKILL
        assert not client.ends_cleanly()
    assert mounts_of(state) == []
    again = serving()
    with Client(again.port) as client:
        client.request(TARGET)
        answer = client.answer()
        assert answer.complete
        assert len(answer.body) > SIZE


def test_sigkill_during_an_upload_leaves_nothing(serving, state):
    before = sorted(str(path) for path in state.rglob("*") if path.is_file() and "streamer.db" not in path.name)
    server = serving()
    rootfs = (state.parent / "rootfs.tar").read_bytes()
    with Client(server.port) as client:
        client.request("/v1/images?name=half:1", method="POST", headers=f"Content-Length: {len(rootfs)}\r\n")
        client.send(rootfs[: len(rootfs) // 2])
        deadline = time.monotonic() + 60
        while not any((state / "staging").iterdir()):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        server.process.kill()
        server.ends()
    again = serving()
    with Client(again.port) as client:
        client.request("/v1/images/half:1/archive", method="HEAD")
        assert client.head().status == 404
    after = sorted(str(path) for path in state.rglob("*") if path.is_file() and "streamer.db" not in path.name)
    assert after == before
