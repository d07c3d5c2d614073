"""Real engines as fixtures: `docker`, `podman`, `buildah`, `skopeo`, `umoci`, `ctr`, each a `Command` to call.

    def test_load(docker, tmp_path):
        docker("load", "-i", archive)

All of them live in one private mount namespace, where `/run`, `/var/lib`, `/var/cache`, `/dev/shm` and `/etc` are
directories of ours: nothing of the machine's own engines is touched, and every mount is gone with the last process,
even after SIGKILL. A process outside reaches what is mounted there through `engines.inside(path)`.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest
from support import overlays

READY = 90.0
"""Seconds that a daemon has to answer, and to end."""

# The binds that make the namespace private, then: say so and stay until the tests end.
_NAMESPACE = """
set -e
for place in /run /var/lib /var/cache /dev/shm /etc; do
  [ -d "$place" ] || continue
  mkdir -p "$0$place"
  [ "$place" = /etc ] && cp -a /etc/. "$0/etc"
  mount --bind "$0$place" "$place"
done
echo ready
exec sleep infinity
"""


def needs(*programs: str) -> None:
    """Skips the test, saying which, unless all the programs are installed."""
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)} (.ci/run lists the packages)")


class Command:
    """One engine's program with the options that keep it to itself. Paths in arguments must be absolute."""

    def __init__(self, name: str, prefix: Sequence[str | Path], environment: Mapping[str, str], root: Path) -> None:
        self._name = name
        self._prefix = [os.fspath(part) for part in prefix]
        self._environment = dict(environment)
        self.root = root
        """Where the engine keeps what it stores."""

    def __call__(
        self, *arguments: object, stdin: bytes | IO[bytes] | None = None, limit: float = 120, fails: bool = False
    ) -> bytes:
        """What the program writes to its standard output; AssertionError with its complaint if it fails.

        With `fails` it has to fail, and what it complains comes back.
        """
        feed: dict[str, Any] = (
            {"input": stdin or b""} if stdin is None or isinstance(stdin, bytes) else {"stdin": stdin}
        )
        done: subprocess.CompletedProcess[bytes] = subprocess.run(
            [*self._prefix, *(a if isinstance(a, bytes) else str(a) for a in arguments)],
            env=self._environment,
            capture_output=True,
            timeout=limit,
            check=False,
            **feed,
        )
        told = f"{self._name} {' '.join(map(str, arguments))}: {done.stderr.decode(errors='replace').strip()}"
        if fails:
            assert done.returncode != 0, told
            return done.stderr
        assert done.returncode == 0, told
        return done.stdout

    def text(self, *arguments: object) -> str:
        return self(*arguments).decode().strip()

    def json(self, *arguments: object) -> Any:
        return json.loads(self(*arguments))


class Engines:
    """The private namespace and what runs in it. Made by the fixture `engines`, once for all tests."""

    def __init__(self, home: Path, holder: int) -> None:
        self.home = home
        self._holder = holder
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "TMPDIR": str(home / "tmp"),
            "XDG_RUNTIME_DIR": str(home / "tmp"),
            "LC_ALL": "C.UTF-8",
            "TZ": "UTC",
        }
        (home / "tmp").mkdir()

    def inside(self, path: str | Path) -> Path:
        """The same file as the engines see it, mounts included, for processes outside."""
        return Path(f"/proc/{self._holder}/root{path}")

    def command(self, program: str, *options: str | Path, root: Path | None = None, **environment: str) -> Command:
        """A program inside; skips the test where it is not installed."""
        needs(program)
        prefix = [*self._enter(), program, *options]
        return Command(program, prefix, {**self.environment, **environment}, root or self.home / program)

    @contextmanager
    def daemon(self, name: str, *command: str | Path, answers: Callable[[], object]) -> Iterator[int]:
        """The PID of a daemon that answers by now; it and everything it started has ended when the block is left."""
        log = self.home / f"{name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                # Its parent may be killed: then it ends as well.
                ["setpriv", "--pdeathsig", "TERM", *self._enter(), *(os.fspath(part) for part in command)],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            deadline = time.monotonic() + READY
            while True:
                try:
                    answers()
                    break
                except (AssertionError, subprocess.TimeoutExpired) as error:
                    if process.poll() is not None or time.monotonic() > deadline:
                        told = log.read_text(errors="replace")[-2000:]
                        raise AssertionError(f"{name} does not answer: {error}\n{told}") from None
                    time.sleep(0.05)
            yield process.pid
        finally:
            _end(process)

    def left(self) -> list[int]:
        """Processes that still work below `home`: what a daemon started and did not take along (shims, monitors)."""
        mark = os.fsencode(self.home)
        found = []
        for name in os.listdir("/proc"):
            if name.isdigit() and int(name) not in (os.getpid(), self._holder):
                try:
                    command = Path(f"/proc/{name}/cmdline").read_bytes()
                except OSError:
                    continue
                if mark in command:
                    found.append(int(name))
        return found

    def _enter(self) -> list[str]:
        return ["nsenter", f"--mount=/proc/{self._holder}/ns/mnt", "--"]


@pytest.fixture(scope="session")
def engines() -> Iterator[Engines]:
    if reason := overlays.possible():
        pytest.skip(f"{reason} (real engines run as root)")
    needs("unshare", "nsenter", "setpriv")
    # A short path: a socket's may have 107 bytes. Not below what the namespace covers.
    home = Path(tempfile.mkdtemp(prefix="engines-", dir="/tmp"))
    holder = subprocess.Popen(
        [
            *("setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--propagation", "private", "--"),
            *("sh", "-c", _NAMESPACE, str(home / "over")),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert holder.stdout is not None
    made = None
    try:
        assert holder.stdout.readline() == b"ready\n", "no private mount namespace for the engines"
        made = Engines(home, holder.pid)
        yield made
    finally:
        if made is not None:
            _kill_all(made.left)
        _end(holder)
        holder.stdout.close()
        subprocess.run(["rm", "-rf", "--one-file-system", "--", home], check=False)
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mounts:
            assert str(home) not in mounts.read(), "an engine's mount is left"
        assert not home.exists(), "an engine's files are left"


@pytest.fixture(scope="session")
def containerd(engines: Engines) -> Iterator[Path]:
    """The address of a containerd of ours."""
    needs("containerd", "ctr")
    home = engines.home / "containerd"
    address = home / "s"
    home.mkdir()
    config = home / "config.toml"
    snapshotters = [f"io.containerd.snapshotter.v1.{name}" for name in ("aufs", "btrfs", "devmapper", "zfs")]
    config.write_text(
        f'version = 2\nroot = "{home}/root"\nstate = "{home}/state"\n'
        f"disabled_plugins = {json.dumps(['io.containerd.grpc.v1.cri', *snapshotters])}\n"
        f'[grpc]\n  address = "{address}"\n'
    )
    client = engines.command("ctr", "--address", address)
    with engines.daemon("containerd", "containerd", "--config", config, answers=lambda: client("version", limit=30)):
        yield address


@pytest.fixture(scope="session")
def ctr(engines: Engines, containerd: Path) -> Command:
    """containerd's own client, in a namespace of its own."""
    return engines.command("ctr", "--address", containerd, "--namespace", "tests", root=containerd.parent)


@pytest.fixture(scope="session")
def docker(engines: Engines, containerd: Path) -> Iterator[Command]:
    """The docker command with a daemon of ours: graph driver overlay2, no network."""
    needs("dockerd", "docker")
    home = engines.home / "docker"
    home.mkdir()
    (home / "daemon.json").write_text('{"features": {"containerd-snapshotter": false}}')
    client = engines.command("docker", "--host", f"unix://{home}/s", root=home / "data", DOCKER_CONFIG=str(home))
    command: list[str | Path] = ["dockerd", "--storage-driver", "overlay2", "--containerd", containerd]
    command += ["--iptables=false", "--ip-forward=false", "--ip-masq=false", "--bridge=none", "--userland-proxy=false"]
    command += ["--config-file", home / "daemon.json", "--pidfile", home / "pid", "--host", f"unix://{home}/s"]
    command += ["--data-root", home / "data", "--exec-root", home / "exec"]
    with engines.daemon("dockerd", *command, answers=lambda: client("version", limit=30)):
        yield client
        containers = client.text("ps", "-aq").split()
        if containers:
            client("rm", "-f", *containers)


@pytest.fixture(scope="session")
def podman(engines: Engines) -> Command:
    return engines.command("podman", *_containers_storage(engines.home / "podman"), root=engines.home / "podman/root")


@pytest.fixture(scope="session")
def buildah(engines: Engines) -> Command:
    home = engines.home / "buildah"
    return engines.command("buildah", *_containers_storage(home)[:6], root=home / "root")


def _containers_storage(home: Path) -> list[str | Path]:
    options: list[str | Path] = ["--root", home / "root", "--runroot", home / "run", "--storage-driver", "overlay"]
    return [*options, "--tmpdir", home / "tmp", "--events-backend", "file", "--cgroup-manager", "cgroupfs"]


@pytest.fixture(scope="session")
def skopeo(engines: Engines) -> Command:
    return engines.command("skopeo", "--insecure-policy")


@pytest.fixture(scope="session")
def umoci(engines: Engines) -> Command:
    return engines.command("umoci")


def _kill_all(left: Callable[[], list[int]]) -> None:
    """Back once they are gone: who is about to die may still write."""
    end = time.monotonic() + READY
    while pids := left():
        assert time.monotonic() < end, f"processes {pids} of the engines do not end"
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        time.sleep(0.02)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(READY)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(READY)
