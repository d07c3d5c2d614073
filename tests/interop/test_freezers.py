"""Freezers of real engines: which engine is asked, and what becomes of those that cannot be."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.counting import counting, podman_program, socket
from support.engines import Command, Engines

from streamer.errors import Conflict, EngineUnreachable, Unsupported
from streamer.stores.containers_storage.freezer import PodmanFreezer
from streamer.stores.docker import freezer as docker_freezer
from streamer.stores.docker import resume
from streamer.stores.docker.freezer import DockerFreezer
from streamer.stores.itself import is_itself

pytestmark = [pytest.mark.engine, pytest.mark.root]


@pytest.fixture
def podman_in_path(engines: Engines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{podman_program(engines)}:{os.environ['PATH']}")


@pytest.fixture
def made(request: pytest.FixtureRequest) -> Iterator[str]:
    with counting("docker", request) as box:
        yield box.id


def _docker(docker: Command, identity: str, *sockets: str, root: Path | None = None) -> DockerFreezer:
    return DockerFreezer(sockets, root or docker.root, identity)


def test_the_engine_of_this_data_root_is_found_among_others(docker: Command, made: str, tmp_path: Path) -> None:
    freezer = _docker(docker, made, str(tmp_path / "nobody"), str(tmp_path), socket(docker))
    assert freezer.resume_command[-2:] == (socket(docker), made)


@pytest.mark.parametrize("other", ["root", "socket"])
def test_no_engine_of_this_data_root(docker: Command, made: str, tmp_path: Path, other: str) -> None:
    root = tmp_path if other == "root" else None
    freezer = _docker(docker, made, str(tmp_path / "s") if other == "socket" else socket(docker), root=root)
    questions: tuple[Callable[[], object], ...] = (freezer.pause, freezer.still, freezer.resume)
    for ask in questions:
        with pytest.raises(EngineUnreachable, match="no Docker engine answers for this data root") as caught:
            ask()
        assert str(tmp_path) not in str(caught.value)
        assert str(docker.root) not in str(caught.value)


def test_a_container_with_remapped_users(docker: Command, made: str, tmp_path: Path) -> None:
    (docker.root / "100000.100000").mkdir(exist_ok=True)
    freezer = _docker(docker, made, socket(docker), root=docker.root / "100000.100000")
    assert freezer.pause()
    freezer.resume()


def test_an_engine_that_refuses(docker: Command, made: str) -> None:
    freezer = _docker(docker, made, socket(docker))
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
    assert not _docker(docker, identity, socket(docker)).pause()


def test_resuming_what_runs_or_is_gone_is_nothing(docker: Command, made: str) -> None:
    _docker(docker, made, socket(docker)).resume()
    _docker(docker, "0" * 64, socket(docker)).resume()


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


def test_an_engine_that_was_named_may_know_its_data_root_by_another_path(
    docker: Command, made: str, tmp_path: Path
) -> None:
    named = DockerFreezer([socket(docker)], tmp_path, made, named=True)
    assert named.pause()
    named.resume()
    with pytest.raises(EngineUnreachable):
        DockerFreezer([socket(docker)], tmp_path, "0" * 64, named=True).pause()


def test_without_a_control_group_in_sight_the_engine_is_asked_what_happened(
    docker: Command, made: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker_freezer, "standstill", lambda *_: None)
    freezer = _docker(docker, made, socket(docker))
    assert freezer.pause()
    assert freezer.still()
    docker("unpause", made)
    docker("pause", made)
    assert not freezer.still()
    freezer.resume()


def test_an_engine_that_does_not_tell_what_happened_is_not_believed(
    docker: Command, made: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = resume.ask

    def forgets(path: str, method: str, target: str) -> tuple[int, bytes]:
        return (500, b"") if target.startswith("/events") else ask(path, method, target)

    monkeypatch.setattr(docker_freezer, "standstill", lambda *_: None)
    monkeypatch.setattr(resume, "ask", forgets)
    freezer = _docker(docker, made, socket(docker))
    assert freezer.pause()
    with pytest.raises(EngineUnreachable, match="does not tell whether container"):
        freezer.still()
    freezer.resume()


def test_resumed_before_it_was_ever_seen_to_stand_still(
    docker: Command, made: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = resume.ask

    def undone(path: str, method: str, target: str) -> tuple[int, bytes]:
        answer = ask(path, method, target)
        if target.endswith("/pause"):
            docker("unpause", made)
        return answer

    monkeypatch.setattr(resume, "ask", undone)
    freezer = _docker(docker, made, socket(docker))
    assert freezer.pause()
    assert not freezer.still()
    docker("pause", made)
    assert not freezer.still()


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("docker", ()),
        ("docker", ("--cgroupns", "private")),
        ("podman", ()),
        ("podman", ("--cgroupns", "private")),
        ("containerd", ()),
    ],
)
def test_from_within_a_container_it_is_recognized(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str, options: tuple[str, ...]
) -> None:
    (tmp_path / "self").mkdir()
    with counting(kind, request, *options) as box, counting(kind, request) as other:
        within: tuple[str, ...] = (
            ("tasks", "exec", "--exec-id", "e1", box.id) if kind == "containerd" else ("exec", box.id)
        )
        for name in ("cgroup", "mountinfo"):
            (tmp_path / "self" / name).write_bytes(box.engine(*within, "/bin/busybox", "cat", f"/proc/self/{name}"))
            within = tuple("e2" if part == "e1" else part for part in within)
        assert is_itself(box.id, box.record.snapshot, tmp_path)
        assert not is_itself(other.id, other.record.snapshot, tmp_path)
        assert not is_itself(box.id, box.record.snapshot)
