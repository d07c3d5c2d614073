"""A whole service as an operator runs it: drained under load, reloaded, started by a service manager, reached with
TLS and tokens by its own client."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import certificates
from support.certificates import SecurePort
from support.clients import Client
from support.commandline import run
from support.keys import Keys, scope
from support.processes import Serving, mounts_of

from streamer.access.scope import EVERYTHING

TARGET = "/v1/containers/box/archive"
SIZE = 24 << 20
"""More than the buffers of both sides hold, so that an unread download is really under way."""


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An embedded store with a container of two layers."""
    root = tmp_path_factory.mktemp("service")
    tree = root / "tree"
    tree.mkdir()
    (tree / "big").write_bytes(os.urandom(1 << 20) * (SIZE >> 20))
    subprocess.run(["tar", "-C", str(tree), "-cf", str(root / "rootfs.tar"), "."], check=True)
    made = root / "state"
    for command in (("import", root / "rootfs.tar", "--name", "big:1"), ("create", "big:1", "--name", "box")):
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


@pytest.mark.root
@pytest.mark.parametrize("stalled", [0, 3])
def test_twenty_downloads_end_or_are_broken_off_and_the_status_says_which(serving, state, stalled: int) -> None:
    server = serving(STREAMER_DRAIN_TIMEOUT="20" if stalled else "100")
    clients = [under_way(server.port) for _ in range(20)]
    kept = Client(server.port)
    kept.request("/readyz")
    assert kept.answer().status == 200
    server.process.terminate()
    server.refuses()
    for target in ("/readyz", TARGET, f"{TARGET}?length=unknown"):
        kept.request(target)
        answer = kept.answer()
        assert (answer.status, json.loads(answer.body)["code"]) == (503, "draining")
        assert int(answer.headers["retry-after"]) > 0
    ended: list[bool] = []
    reading = [threading.Thread(target=lambda c=c: ended.append(c.ends_cleanly())) for c in clients[stalled:]]
    for each in reading:
        each.start()
    for each in reading:
        each.join()
    assert ended == [True] * (20 - stalled), "whoever goes on reading gets everything"
    assert server.ends(100) == (1 if stalled else 0)
    assert not any(client.ends_cleanly() for client in clients[:stalled])
    assert mounts_of(state) == []
    for client in (*clients, kept):
        client.close()
    stopped = [json.loads(line) for line in server.log if '"stopped"' in line]
    assert stopped[0]["status"] == (1 if stalled else 0)


def wait_for(server: Serving, event: str, count: int = 1) -> None:
    deadline = time.monotonic() + 60
    while sum(f'"{event}"' in line for line in server.log) < count:
        assert time.monotonic() < deadline, server.log
        time.sleep(0.02)


def test_tokens_and_certificates_are_read_again(serving, tmp_path: Path) -> None:
    keys = Keys(tmp_path / "tokens")
    keys.add("old", scope(["list"]))
    chain, key = certificates.write(tmp_path, certificates.leaf("localhost"))
    server = serving(STREAMER_TOKENS=str(keys.path), STREAMER_TLS_CERTIFICATE=chain, STREAMER_TLS_KEY=key)

    def status(name: str, authority: str = "streamer tests") -> int:
        port = SecurePort(server.port)
        port.tls = certificates.client(authority)
        with Client(port) as client:
            client.request("/v1/images", headers=keys.header(name))
            return client.head().status

    assert status("old") == 200
    # In one step: the server looks every second, and what is only half written is a change of its own.
    fresh = Keys(tmp_path / "fresh")
    keys.secrets["new"] = fresh.add("new", scope(["list"]))
    fresh.path.replace(keys.path)
    server.process.send_signal(signal.SIGHUP)  # at once; and without it within a second
    wait_for(server, "tokens reloaded")
    assert (status("old"), status("new")) == (401, 200)
    certificates.write(tmp_path, certificates.leaf("localhost", of="others"))
    deadline = time.monotonic() + 60
    while True:
        try:
            assert status("new", "others") == 200
            break
        except OSError:  # the old certificate
            assert time.monotonic() < deadline
            time.sleep(0.05)
    keys.path.write_text("nonsense")
    wait_for(server, "tokens not reloaded")
    assert status("new", "others") == 200
    server.process.terminate()
    assert server.ends() == 0


def test_an_address_that_others_reach_needs_to_know_who_asks(state, tmp_path: Path) -> None:
    keys = Keys(tmp_path / "tokens")
    keys.add("a", EVERYTHING)
    arguments = ("serve", "--state", state, "--listen", "0.0.0.0:0")
    for more, said in (((), b"nobody has to say who asks"), (("--tokens", keys.path), b"without TLS")):
        answer = run(*arguments, *more)
        assert answer.returncode == 2
        assert said in answer.stderr
        assert b"Traceback" not in answer.stderr
    keys.path.chmod(0o644)
    answer = run("serve", "--state", state, "--tokens", keys.path)
    assert answer.returncode == 8
    assert b"every user of this machine may read it" in answer.stderr


@pytest.mark.parametrize("mutual", [False, True])
def test_its_own_client_gets_in(serving, tmp_path: Path, mutual: bool) -> None:
    keys = Keys(tmp_path / "tokens")
    keys.add("a", scope(["image"]))
    chain, key = certificates.write(tmp_path, certificates.leaf("127.0.0.1"))
    ca = certificates.write_authority(tmp_path / "ca.pem")
    token, shown = tmp_path / "token", tmp_path / "client.pem"
    token.touch(0o600)
    token.write_text(keys.secrets["a"] + "\n")
    shown.touch(0o600)
    shown.write_bytes(certificates.leaf("client.test").private_key_and_cert_chain_pem.bytes())
    environment = {"STREAMER_TLS_CERTIFICATE": chain, "STREAMER_TLS_KEY": key, "STREAMER_TOKENS": str(keys.path)}
    server = serving(**environment, **({"STREAMER_TLS_CLIENT_CA": ca} if mutual else {}))
    url = f"https://127.0.0.1:{server.port}"
    output = tmp_path / "out.tar"

    def export(*more: object, kind: str = "image", name: str = "big:1") -> subprocess.CompletedProcess[bytes]:
        return run("export", kind, name, "--from", url, "-o", output, *more)

    certificate = ("--certificate", shown) if mutual else ()
    untrusted = export("--token-file", token, *certificate)
    assert untrusted.returncode == 10 and b"not trusted" in untrusted.stderr
    unknown = export("--ca", ca, *certificate)
    assert unknown.returncode == 8 and b"only to requests with a token" in unknown.stderr
    forbidden = export("--ca", ca, "--token-file", token, *certificate, kind="container", name="box")
    assert forbidden.returncode == 8 and b"its kinds do not hold 'container'" in forbidden.stderr
    if mutual:
        assert export("--ca", ca, "--token-file", token).returncode == 10
    assert not output.exists()
    done = export("--ca", ca, "--token-file", token, *certificate, "--jobs", "3")
    assert done.returncode == 0, done.stderr
    assert output.stat().st_size > SIZE
    assert keys.secrets["a"] not in "".join(server.log)
    token.chmod(0o644)
    assert export("--ca", ca, "--token-file", token, *certificate).returncode == 8


START = """
import os, sys
fd = int(sys.argv[1])
os.dup2(fd, 3)
os.environ["LISTEN_PID"] = str(os.getpid())
os.environ["LISTEN_FDS"] = "1"
os.execv(sys.executable, [sys.executable, "-m", "streamer", "serve", "--state", sys.argv[2]])
"""


def test_started_by_a_service_manager(state: Path, tmp_path: Path) -> None:
    """On a socket that somebody else bound, and telling how things stand."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager,
    ):
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(60)
        listener.set_inheritable(True)
        environment = {
            **os.environ,
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "NOTIFY_SOCKET": str(tmp_path / "notify"),
            "WATCHDOG_USEC": "600000000",
        }
        process = subprocess.Popen(
            [sys.executable, "-c", START, str(listener.fileno()), str(state)],
            pass_fds=[listener.fileno()],
            env=environment,
            stderr=subprocess.DEVNULL,
        )
        with process:
            try:
                told = [manager.recv(1000), manager.recv(1000)]
                assert b"WATCHDOG=1" in told
                port = listener.getsockname()[1]
                assert f"READY=1\nSTATUS=serving at http://127.0.0.1:{port}".encode() in told
                with Client(port) as client:
                    client.request("/readyz")
                    assert client.answer().status == 200
                process.send_signal(signal.SIGHUP)
                assert manager.recv(1000).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
                assert manager.recv(1000).startswith(b"READY=1")
                process.terminate()
                assert manager.recv(1000).startswith(b"STOPPING=1")
                assert process.wait(60) == 0
            finally:
                process.kill()
