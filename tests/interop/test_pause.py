"""Containers that real engines run, paused while they are exported: never torn, and running again afterwards."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest
from support import images
from support.clients import Client
from support.commandline import run
from support.engines import Command, Engines
from support.exports import body
from support.processes import Serving
from support.serving import served

from streamer.errors import Conflict, EngineUnreachable, PauseExpired, SourceChanged, StreamerError, Unsupported
from streamer.export.container import plan_container
from streamer.export.diff import plan_diff
from streamer.export.exporter import ExportStream, exporter
from streamer.export.plan import Options
from streamer.stores.base import Container, Listing
from streamer.stores.containers_storage.freezer import PodmanFreezer
from streamer.stores.containers_storage.store import containers_storage
from streamer.stores.docker.freezer import DockerFreezer
from streamer.stores.docker.store import docker_store

pytestmark = [pytest.mark.engine, pytest.mark.root]

PAUSE = Options(pause=True)
# One log comes first in an archive and in a diff, then what takes a while to send, the other log last.
COUNT = "busybox cat /m-ballast > /n-ballast; i=0; while :; do i=$((i+1)); echo $i >> /a-log; echo $i >> /z-log; done"
BALLAST = 8 << 20
LIMITS = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096")


@dataclass
class Box:
    """A container that counts: each number into one log, and then into another."""

    engine: Command
    kind: str
    id: str
    record: Container

    @property
    def log(self) -> Path:
        return Path(os.fsdecode(self.record.snapshot.layers[0]), "z-log")

    @property
    def store(self) -> str:
        """As `--store` takes it."""
        root = self.engine.root
        if self.kind == "docker":
            return f"real=docker:{root}+{root.parent}/s"
        return f"real=containers-storage:{root}+{root.parent}/run"

    def status(self) -> str:
        return self.engine.text("inspect", "--format", "{{.State.Status}}", self.id)

    def runs(self, limit: float = 10) -> bool:
        """Whether it goes on counting."""
        began = self.log.stat().st_size
        deadline = time.monotonic() + limit
        while self.log.stat().st_size <= began:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.005)
        return True

    def stands(self) -> bool:
        began = self.log.stat().st_size
        return not self.runs(0.1) and self.log.stat().st_size == began and self.status() == "paused"


@pytest.fixture(scope="module")
def busybox(engines: Engines) -> Path:
    path = engines.home / "counting.tar"
    program = Path("/bin/busybox").read_bytes()
    path.write_bytes(
        images.layer(
            images.directory("bin/"),
            images.file("bin/busybox", program, mode=0o755),
            images.link("bin/sh", "bin/busybox", mode=0o755),
            images.file("m-ballast", os.urandom(BALLAST)),
        )
    )
    return path


@pytest.fixture
def podman_in_path(engines: Engines, monkeypatch: pytest.MonkeyPatch) -> None:
    """`podman` as this process finds it: the one whose mounts and state lie in the engines' namespace."""
    folder = engines.home / "path"
    if not folder.exists():
        folder.mkdir()
        holder = engines.inside("/").parent
        program = folder / "podman"
        program.write_text(f'#!/bin/sh\nexec nsenter --mount={holder}/ns/mnt -- /usr/bin/podman "$@"\n')
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


@pytest.fixture(params=["docker", "podman"])
def box(request: pytest.FixtureRequest, busybox: Path) -> Iterator[Box]:
    engine: Command = request.getfixturevalue(request.param)
    engine("import", busybox, "counting:1")
    if request.param == "podman":
        request.getfixturevalue("podman_in_path")
    runtime = ("--runtime", "runc") if request.param == "podman" else ()
    started = engine.text(*runtime, "run", "-d", *LIMITS, "--network", "none", "counting:1", "/bin/sh", "-c", COUNT)
    identity = started.splitlines()[-1]
    made = Box(engine, request.param, identity, _record(request.param, engine, identity))
    deadline = time.monotonic() + 10
    while not made.log.exists() or not made.log.stat().st_size:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    yield made
    _ended(engine, identity, request.param)


def _ended(engine: Command, identity: str, kind: str) -> None:
    for command in (["unpause", identity], ["kill", identity], ["rm", "-f", identity]):
        try:
            engine(*command)
        except AssertionError:
            pass  # not paused, not running, not there: as the test left it


def _record(kind: str, engine: Command, identity: str) -> Container:
    root = engine.root
    if kind == "docker":
        return asyncio.run(docker_store("real", root, [_socket(engine)]).container(identity))
    return asyncio.run(containers_storage("real", root, root.parent / "run").container(identity))


def _torn(archive: bytes) -> bool:
    """Whether the logs are not of one moment: then both end with the same number, or the second lacks the last."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as members:
        first, second = (members.extractfile(name) for name in ("a-log", "z-log"))
        assert first is not None
        assert second is not None
        return int(first.read().split()[-1]) - int(second.read().split()[-1]) not in (0, 1)


async def _slowly(box: Box, stream: ExportStream, *, counts: bool) -> bytes:
    """All of it, but not before the container has counted on, if it does."""
    chunks = [await stream.__anext__()]
    assert await anyio.to_thread.run_sync(box.runs if counts else box.stands)
    return b"".join(chunks + [chunk async for chunk in stream])


async def test_unpaused_an_archive_is_torn(box: Box) -> None:
    """Or the other tests would show nothing."""
    async with exporter() as exports, exports.open(plan_container(box.record, Options())) as stream:
        assert _torn(await _slowly(box, stream, counts=True))


async def test_paused_it_never_is_and_the_container_runs_again(box: Box) -> None:
    async with exporter() as exports:
        for _ in range(3):
            async with exports.open(plan_container(box.record, PAUSE)) as stream:
                assert not _torn(await _slowly(box, stream, counts=False))
            assert box.runs()
            assert box.status() == "running"
        async with exports.open(plan_diff(box.record, PAUSE)) as stream:
            assert not _torn(await _slowly(box, stream, counts=False))
    assert box.runs()


async def test_paused_by_its_user_it_stays_paused(box: Box) -> None:
    box.engine("pause", box.id)
    assert not _torn(await body(plan_container(box.record, PAUSE)))
    assert box.stands()


async def test_what_does_not_run_needs_no_pause(box: Box) -> None:
    box.engine("kill", box.id)
    box.engine("wait", box.id)
    assert not _torn(await body(plan_container(box.record, PAUSE)))
    assert box.status() == "exited"


async def test_started_again_meanwhile_is_no_good(box: Box) -> None:
    box.engine("kill", box.id)
    box.engine("wait", box.id)
    async with exporter() as exports:
        with pytest.raises(SourceChanged):
            async with exports.open(plan_container(box.record, PAUSE)) as stream:
                await stream.__anext__()
                box.engine("start", box.id)
                box.engine("kill", box.id)
                box.engine("wait", box.id)
                await _rest(stream)


async def test_resumed_by_its_user_meanwhile_is_no_good(box: Box) -> None:
    async with exporter() as exports:
        with pytest.raises(SourceChanged, match="resumed or ended by somebody else"):
            async with exports.open(plan_container(box.record, PAUSE)) as stream:
                await stream.__anext__()
                box.engine("unpause", box.id)
                await _rest(stream)
    assert box.runs()


async def test_resumed_and_paused_by_its_user_meanwhile_is_no_good(box: Box) -> None:
    if isinstance(box.record.freezer, PodmanFreezer):
        return  # podman remembers nothing of what its containers were
    async with exporter() as exports:
        with pytest.raises(SourceChanged, match="resumed or ended by somebody else"):
            async with exports.open(plan_container(box.record, PAUSE)) as stream:
                await stream.__anext__()
                box.engine("unpause", box.id)
                box.engine("pause", box.id)
                await _rest(stream)
    assert box.stands()


async def test_two_exports_share_a_pause(box: Box) -> None:
    plan = plan_container(box.record, PAUSE)
    async with exporter() as exports, exports.open(plan) as one, exports.open(plan) as two:
        assert not _torn(await _slowly(box, one, counts=False))
        assert box.stands()
        assert not _torn(await _slowly(box, two, counts=False))
    assert box.runs()


async def test_at_the_limit_it_runs_again(box: Box) -> None:
    async with exporter(pause_limit=0.3) as exports:
        with pytest.raises(PauseExpired):
            async with exports.open(plan_container(box.record, PAUSE)) as stream:
                await stream.__anext__()
                assert await anyio.to_thread.run_sync(box.runs)
                await _rest(stream)
    assert box.status() == "running"


async def test_a_client_that_goes_leaves_it_running(box: Box) -> None:
    class Store:
        name, location = "real", "real:/"

        async def container(self, reference: str) -> Container:
            return box.record

        async def containers(self) -> Listing[Container]:
            return Listing((box.record,))

    def leaves(port: int) -> None:
        with Client(port, receive_buffer=4096) as client:
            client.request("/v1/containers/box/archive?pause=true")
            assert client.head().status == 200
            assert client.read(4096)
            assert box.stands()
            client.reset()

    async with served(Store()) as site:  # type: ignore[arg-type]
        await anyio.to_thread.run_sync(leaves, site.port)
        assert await anyio.to_thread.run_sync(box.runs)
        assert box.status() == "running"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 1)])
def test_a_server_that_ends_in_mid_stream(box: Box, tmp_path: Path, number: signal.Signals, status: int) -> None:
    settings = {"STREAMER_STORES": box.store, "STREAMER_DRAIN_TIMEOUT": "0.1", "PATH": os.environ["PATH"]}
    with Serving(tmp_path / "state", **settings) as server, Client(server.port, receive_buffer=4096) as client:
        client.request(f"/v1/containers/{box.id}/archive?pause=true")
        head = client.head()
        assert head.status == 200, (head, client.read(1000))
        assert client.read(4096)
        assert box.stands()
        server.process.send_signal(number)
        assert server.ends(20) == status
        assert not client.ends_cleanly()
        assert box.runs()
        deadline = time.monotonic() + 10
        while box.status() != "running":
            assert time.monotonic() < deadline
        if number == signal.SIGTERM:
            assert any("container resumed" in line for line in server.log)


@pytest.mark.parametrize("kind", ["container", "diff"])
def test_from_the_command_line(box: Box, tmp_path: Path, kind: str) -> None:
    done = run("export", kind, box.id, "--pause", "-o", tmp_path / "archive", "--store", box.store)
    assert done.returncode == 0, done.stderr
    assert not _torn((tmp_path / "archive").read_bytes())
    assert box.runs()


async def test_an_export_ends_while_the_container_is_removed(box: Box) -> None:
    """Either whole or broken, and nothing waits for anything."""
    async with exporter() as exports:
        with pytest.raises(StreamerError) as caught:
            async with exports.open(plan_container(box.record, PAUSE)) as stream:
                await stream.__anext__()
                box.engine("unpause", box.id)
                _ended(box.engine, box.id, "")
                await _rest(stream)
    assert caught.value.code in ("source_changed", "source_failed")


# Engines that cannot be asked


@pytest.fixture
def made(docker: Command, busybox: Path) -> Iterator[str]:
    docker("import", busybox, "counting:1")
    identity = docker.text("run", "-d", "--network", "none", "counting:1", "/bin/sh", "-c", COUNT)
    yield identity
    _ended(docker, identity, "docker")


def _docker(docker: Command, identity: str, *sockets: str, root: Path | None = None) -> DockerFreezer:
    return DockerFreezer(sockets, root or docker.root, identity)


def _socket(docker: Command) -> str:
    return str(docker.root.parent / "s")


def test_the_engine_of_this_data_root_is_found_among_others(docker: Command, made: str, tmp_path: Path) -> None:
    freezer = _docker(docker, made, str(tmp_path / "nobody"), str(tmp_path), _socket(docker))
    assert freezer.resume_command[-2:] == (_socket(docker), made)


@pytest.mark.parametrize("other", ["root", "socket"])
def test_no_engine_of_this_data_root(docker: Command, made: str, tmp_path: Path, other: str) -> None:
    root = tmp_path if other == "root" else None
    freezer = _docker(docker, made, str(tmp_path / "s") if other == "socket" else _socket(docker), root=root)
    questions: tuple[Callable[[], object], ...] = (freezer.pause, freezer.still, freezer.resume)
    for ask in questions:
        with pytest.raises(EngineUnreachable, match="no Docker engine answers for this data root") as caught:
            ask()
        assert str(tmp_path) not in str(caught.value)
        assert str(docker.root) not in str(caught.value)


def test_a_container_with_remapped_users(docker: Command, made: str, tmp_path: Path) -> None:
    (docker.root / "100000.100000").mkdir(exist_ok=True)
    freezer = _docker(docker, made, _socket(docker), root=docker.root / "100000.100000")
    assert freezer.pause()
    freezer.resume()


def test_an_engine_that_refuses(docker: Command, made: str) -> None:
    freezer = _docker(docker, made, _socket(docker))
    pid = docker.text("inspect", "--format", "{{.State.Pid}}", made)
    group = next(line for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines() if ":freezer:" in line)
    folder = Path("/sys/fs/cgroup/freezer" + group.split(":")[2])
    # Frozen behind its back: the runtime then takes it for one that is paused already.
    (folder / "freezer.state").write_text("FROZEN")
    try:
        with pytest.raises(Conflict, match="the Docker engine refuses") as caught:
            freezer.pause()
        assert caught.value.__notes__
    finally:
        (folder / "freezer.state").write_text("THAWED")


@pytest.mark.parametrize("identity", ["0" * 64])
def test_a_container_that_docker_does_not_know(docker: Command, identity: str) -> None:
    assert not _docker(docker, identity, _socket(docker)).pause()


def test_resuming_what_runs_or_is_gone_is_nothing(docker: Command, made: str) -> None:
    _docker(docker, made, _socket(docker)).resume()
    _docker(docker, "0" * 64, _socket(docker)).resume()


def test_a_container_that_podman_does_not_know(podman: Command, podman_in_path: None) -> None:
    freezer = PodmanFreezer(podman.root, podman.root.parent / "run", "0" * 64)
    with pytest.raises(Unsupported, match="podman does not know it"):
        freezer.still()


def test_without_podman(podman: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    freezer = PodmanFreezer(podman.root, podman.root.parent / "run", "0" * 64)
    with pytest.raises(EngineUnreachable, match="`podman` is not installed"):
        freezer.still()


def test_a_store_of_another_user_is_left_alone(podman_in_path: None, tmp_path: Path) -> None:
    os.chown(tmp_path, 1000, 1000)  # podman would make files there that are root's
    with pytest.raises(Unsupported, match="belongs to user 1000"):
        PodmanFreezer(tmp_path, None, "0" * 64).still()
    assert list(tmp_path.iterdir()) == []


def test_podman_is_not_asked_where_it_would_forget_its_containers(podman: Command, tmp_path: Path) -> None:
    freezer = PodmanFreezer(podman.root, tmp_path / "missing", "0" * 64)
    with pytest.raises(EngineUnreachable, match="run root is not to be seen"):
        freezer.still()


async def _rest(stream: ExportStream) -> bytes:
    return b"".join([chunk async for chunk in stream])
