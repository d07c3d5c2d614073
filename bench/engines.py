"""Engines on stores of the benchmark's own, below its work directory; filled once, and found filled the next time."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from bench import namespace
from bench.errors import BenchError
from bench.measure import Subject
from bench.peers import Pipeline, Request
from bench.processes import daemon
from bench.trees import Tree


class Engine(Protocol):
    """A store, who fills it, and what it exports by itself."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...

    @property
    def store(self) -> str:
        """As `streamer serve --store` takes it; its name there is the engine's."""

    def has(self, tree: Tree) -> bool: ...

    def fill(self, tree: Tree) -> None:
        """Imports it; a root file system becomes a container as well, of the tree's name, that does not run."""

    def merged(self, tree: Tree, name: str = "merged") -> AbstractContextManager[Path]:
        """The container's file system, mounted anew, as the engine itself mounts it for an export."""

    def plain(self, tree: Tree) -> Path | None:
        """The directory of the only layer that holds anything, if there is one."""

    def export(self, tree: Tree) -> Subject | None:
        """What the engine makes of the container, or of the image."""


class _Overlay:
    """What Docker and Podman have in common: a container's lower and upper directories."""

    def lowers(self, tree: Tree) -> list[Path]:
        """Topmost first; the container's own changes are the first."""
        found = self.inspect(tree)["GraphDriver"]["Data"]
        return [Path(found["UpperDir"]), *map(Path, found["LowerDir"].split(":"))]

    def merged(self, tree: Tree, name: str = "merged") -> AbstractContextManager[Path]:
        return namespace.overlay(self.lowers(tree), name)

    def plain(self, tree: Tree) -> Path | None:
        return self.lowers(tree)[-1]

    def inspect(self, tree: Tree) -> Any:
        raise NotImplementedError


class Docker(_Overlay):
    """dockerd with overlay2, asked through its API with curl."""

    name = "docker"

    def __init__(self, pid: int, socket: Path, root: Path, version: str) -> None:
        self.pid = pid
        self.version = version
        self.store = f"docker=docker:{root}"
        self._socket = socket

    def has(self, tree: Tree) -> bool:
        return self._ask(_document(tree)).get("Id") is not None

    def fill(self, tree: Tree) -> None:
        target = "/images/load?quiet=1" if tree.image else f"/images/create?fromSrc=-&repo={tree.reference[:-2]}&tag=1"
        _feed(
            tree, [*self._curl("-X", "POST", "-T", "-", "-H", "Content-Type: application/x-tar"), f"http://d{target}"]
        )
        if not tree.image:
            body = json.dumps({"Image": tree.reference, "Cmd": ["/x"], "HostConfig": {"NetworkMode": "none"}})
            self._ask(f"/containers/create?name={tree.name}", "-d", body, "-H", "Content-Type: application/json")
        if not self.has(tree):
            raise BenchError(f"docker did not take {tree.name}")

    def inspect(self, tree: Tree) -> Any:
        return self._ask(_document(tree))

    def export(self, tree: Tree) -> Subject:
        path = f"/images/{tree.reference}/get" if tree.image else f"/containers/{tree.name}/export"
        name = "docker save, API with curl" if tree.image else "docker export, API with curl"
        return Request(name, self.pid, ("--unix-socket", os.fspath(self._socket), f"http://docker{path}"))

    def _ask(self, path: str, *options: str) -> Any:
        """A JSON answer, whatever the status."""
        done = subprocess.run([*self._curl(*options), f"http://docker{path}"], capture_output=True, check=False)
        if done.returncode != 0:
            raise BenchError(f"docker does not answer {path}: {done.stderr.decode(errors='replace').strip()}")
        return json.loads(done.stdout)

    def _curl(self, *options: str) -> list[str]:
        return ["curl", "-sS", "--unix-socket", os.fspath(self._socket), *options]


def _document(tree: Tree) -> str:
    return f"/images/{tree.reference}/json" if tree.image else f"/containers/{tree.name}/json"


@contextmanager
def docker(work: Path) -> Iterator[Docker]:
    """The daemon, with a containerd of its own, until the block is left. No network, no firewall rules."""
    root, run = work / "docker", namespace.HOME / "docker"
    socket = run / "s"
    for place in (root, run):
        place.mkdir(parents=True, exist_ok=True)
    (run / "daemon.json").write_text('{"features": {"containerd-snapshotter": false}}')
    command: list[str | Path] = ["dockerd", "--storage-driver", "overlay2", "--config-file", run / "daemon.json"]
    command += ["--iptables=false", "--ip-forward=false", "--ip-masq=false", "--bridge=none", "--userland-proxy=false"]
    command += ["--host", f"unix://{socket}", "--pidfile", run / "pid"]
    command += ["--data-root", root, "--exec-root", run / "exec"]
    environment = {"HOME": os.fspath(run), "DOCKER_CONFIG": os.fspath(run)}
    with daemon("dockerd", command, work / "logs/dockerd.log", partial(_version, socket), environment) as (
        pid,
        version,
    ):
        yield Docker(pid, socket, root, version)


def _version(socket: Path) -> str | None:
    command = ["curl", "-sS", "--max-time", "5", "--unix-socket", os.fspath(socket), "http://docker/version"]
    done = subprocess.run(command, capture_output=True, check=False)
    return str(json.loads(done.stdout)["Version"]) if done.returncode == 0 else None


class Podman(_Overlay):
    """podman with the overlay driver; it has no daemon."""

    name = "podman"

    def __init__(self, work: Path) -> None:
        root, self._run = work / "podman", namespace.HOME / "podman"
        for place in (root, self._run, work / "temporary"):
            place.mkdir(parents=True, exist_ok=True)
        self.store = f"podman=containers-storage:{root}+{self._run}/run"
        self._environment = {"HOME": os.fspath(self._run), "TMPDIR": os.fspath(work / "temporary")}
        self._environment["XDG_RUNTIME_DIR"] = os.fspath(self._run)
        options: list[str | Path] = ["podman", "--root", root, "--runroot", self._run / "run"]
        # In a tmpfs, as /run is: podman takes each start of the benchmark for a start of the machine.
        options += ["--tmpdir", self._run / "tmp", "--storage-driver", "overlay", "--events-backend", "none"]
        options += ["--cgroup-manager", "cgroupfs"]
        options += ["--runtime", "runc"] if shutil.which("runc") else []
        self._options = tuple(os.fspath(option) for option in options)
        self.version = self._call("version", "--format", "{{.Client.Version}}").decode().strip()

    def has(self, tree: Tree) -> bool:
        found = self._try(*(("image", "exists", tree.reference) if tree.image else ("container", "exists", tree.name)))
        return found.returncode == 0

    def fill(self, tree: Tree) -> None:
        arguments = ("load", "-q") if tree.image else ("import", "-q", "-", tree.reference)
        _feed(tree, [*self._options, *arguments], self._environment)
        if not tree.image:
            limits = ("--network", "none", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024")
            self._call("create", "--name", tree.name, *limits, tree.reference, "/x")
        if not self.has(tree):
            raise BenchError(f"podman did not take {tree.name}")

    def inspect(self, tree: Tree) -> Any:
        return json.loads(self._call("inspect", tree.reference if tree.image else tree.name))[0]

    def export(self, tree: Tree) -> Subject:
        name = "podman save to a pipe" if tree.image else "podman export to a pipe"
        arguments = ("save", tree.reference) if tree.image else ("export", tree.name)
        return Pipeline(name, ((*self._options, *arguments),), environment=tuple(self._environment.items()))

    def _try(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        environment = {**os.environ, **self._environment}
        return subprocess.run([*self._options, *arguments], env=environment, capture_output=True, check=False)

    def _call(self, *arguments: str) -> bytes:
        done = self._try(*arguments)
        if done.returncode != 0:
            raise BenchError(f"podman {arguments[0]}: {done.stderr.decode(errors='replace').strip()}")
        return done.stdout


class Local:
    """streamer's own store, where neither engine is there: nothing to compare it with but plain tar."""

    name = "local"
    version = "streamer's own store"

    def __init__(self, work: Path) -> None:
        self._state = work / "local"
        self._state.mkdir(exist_ok=True)
        self.store = f"local=local:{self._state}"

    def has(self, tree: Tree) -> bool:
        if not any(self._state.iterdir()):
            return False  # the first import makes the store
        listed = self._call("ls", "images" if tree.image else "containers", "--json").decode()
        return (tree.reference if tree.image else tree.name) in listed

    def fill(self, tree: Tree) -> None:
        kind = ("--format", "docker-archive") if tree.image else ("--format", "rootfs", "--name", tree.reference)
        _feed(tree, [*self._command("import"), "-", *kind])
        if not tree.image:
            self._call("create", tree.reference, "--name", tree.name)
        if not self.has(tree):
            raise BenchError(f"streamer did not take {tree.name}")

    @contextmanager
    def merged(self, tree: Tree, name: str = "merged") -> Iterator[Path]:
        place = self._call("mount", tree.name).decode().strip()
        try:
            yield Path(place)
        finally:
            self._call("unmount", tree.name)

    def plain(self, tree: Tree) -> Path | None:
        return None

    def export(self, tree: Tree) -> Subject | None:
        return None

    def _command(self, name: str) -> list[str]:
        return [os.fspath(Path(sys.executable).parent / "streamer"), name, "--state", os.fspath(self._state)]

    def _call(self, name: str, *arguments: str) -> bytes:
        done = subprocess.run([*self._command(name), *arguments], capture_output=True, check=False)
        if done.returncode != 0:
            raise BenchError(f"streamer {name}: {done.stderr.decode(errors='replace').strip()}")
        return done.stdout


def missing(name: str) -> str | None:
    """Why an engine is left out; None if it is there."""
    programs: Mapping[str, Sequence[str]] = {"docker": ("dockerd", "containerd"), "podman": ("podman",)}
    absent = [program for program in programs[name] if shutil.which(program) is None]
    package = {"docker": "docker.io", "podman": "podman"}[name]
    return f"{', '.join(absent)} not installed (apt-get install {package})" if absent else None


def _feed(tree: Tree, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
    """Runs what reads the tree from its standard input."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, **(environment or {})},
    )
    assert process.stdin is not None and process.stderr is not None
    writer: Callable[[Any], None] = tree.write
    try:
        try:
            writer(process.stdin)
            process.stdin.close()
        except BrokenPipeError:
            pass  # it says why
        said = process.stderr.read().decode(errors="replace").strip()
        if process.wait() != 0:
            raise BenchError(f"{command[0]} did not take {tree.name}: {said[-800:]}")
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        process.stderr.close()
