"""Which stores are found on a node, from files and sockets below a root that the test makes."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import anyio
import pytest

from streamer import opening
from streamer.discovery import Found, Node, discover, docker_sockets
from streamer.errors import InvalidRequest, NotFound, Unsupported
from streamer.settings import load
from streamer.stores.location import Location


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "root"
    made.mkdir()
    return made


def node(root: Path, *, uid: int = 0, **environment: str) -> Node:
    return Node(environment, uid, root / "home", root)


def found(root: Path, *, uid: int = 0, **environment: str) -> Found:
    return anyio.run(discover, node(root, uid=uid, **environment))


def docker_root(path: Path) -> Path:
    (path / "image/overlay2/imagedb/content/sha256").mkdir(parents=True)
    (path / "containers").mkdir()
    return path


def storage(path: Path) -> Path:
    for name in ("overlay-images", "overlay-layers"):
        (path / name).mkdir(parents=True)
    return path


def daemon_json(root: Path, **value: object) -> None:
    (root / "etc/docker").mkdir(parents=True)
    (root / "etc/docker/daemon.json").write_text(json.dumps(value))


def test_an_empty_node(root: Path) -> None:
    assert found(root) == Found(())


def test_where_engines_keep_their_stores_by_default(root: Path) -> None:
    place = docker_root(root / "var/lib/docker")
    graphroot = storage(root / "var/lib/containers/storage")
    assert found(root).stores == (
        Location("docker", "docker", str(place)),
        Location("containers-storage", "containers-storage", str(graphroot), str(root / "run/containers/storage")),
    )


def test_a_data_root_of_its_own(root: Path) -> None:
    docker_root(root / "var/lib/docker")
    chosen = docker_root(root / "srv/docker")
    daemon_json(root, **{"data-root": str(chosen), "hosts": ["unix:///srv/d.sock", "tcp://0.0.0.0:2375", 5]})
    assert found(root).stores == (Location("docker", "docker", str(chosen)),)
    sockets = docker_sockets(node(root, DOCKER_HOST="unix:///mine.sock", XDG_RUNTIME_DIR="/run/me"))
    assert sockets == ("/mine.sock", "/srv/d.sock", str(root / "run/docker.sock"), "/run/me/docker.sock")


@pytest.mark.parametrize("data", ["", "[]", "{", '{"data-root": 5}', "\xff"])
def test_a_broken_daemon_json_is_no_daemon_json(root: Path, data: str) -> None:
    place = docker_root(root / "var/lib/docker")
    (root / "etc/docker").mkdir(parents=True)
    (root / "etc/docker/daemon.json").write_bytes(data.encode("latin-1"))
    assert found(root).stores == (Location("docker", "docker", str(place)),)


def test_a_remapped_engine(root: Path) -> None:
    docker_root(root / "var/lib/docker/100000.100000")
    assert [each.name for each in found(root).stores] == ["docker"]


def test_stores_of_an_ordinary_user(root: Path) -> None:
    docker_root(root / "home/.local/share/docker")
    storage(root / "home/.local/share/containers/storage")
    names = [(each.name, each.place) for each in found(root, uid=1000).stores]
    assert names == [
        ("docker-rootless", str(root / "home/.local/share/docker")),
        ("containers-storage", str(root / "home/.local/share/containers/storage")),
    ]


def test_what_may_not_be_read_is_told(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = docker_root(root / "var/lib/docker")
    monkeypatch.setattr(os, "access", lambda path, mode, **_: os.fspath(path) != str(closed))
    assert found(root).stores == ()
    assert [each.name for each, _ in found(root).closed] == ["docker"]


def test_a_containerd_that_does_not_answer_is_served_all_the_same(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)  # a socket's address may have 107 bytes
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("s")
        assert found(root, CONTAINERD_ADDRESS=str(root / "s")).stores == tuple(
            Location(f"containerd-{namespace}", "containerd", str(root / "s"), namespace)
            for namespace in ("default", "k8s.io")
        )


def test_a_containerd_without_the_libraries_for_it(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are optional: whoever has not got them is told, and everything else is served."""

    async def refused(_: str) -> list[str]:
        raise Unsupported("install streamer[containerd]")

    monkeypatch.setattr("streamer.stores.containerd.store.namespaces", refused)
    monkeypatch.chdir(root)
    place = docker_root(root / "var/lib/docker")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("s")
        answer = found(root, CONTAINERD_ADDRESS=str(root / "s"))
    assert answer.stores == (Location("docker", "docker", str(place)),)
    assert [(each.place, why) for each, why in answer.closed] == [(str(root / "s"), "install streamer[containerd]")]


def test_a_docker_whose_images_are_in_a_containerd_that_is_not_there(root: Path) -> None:
    for name in ("containers", "rootfs"):
        (root / "var/lib/docker" / name).mkdir(parents=True)
    answer = found(root)
    assert answer.stores == ()
    ((each, why),) = answer.closed
    assert (each.name, "--store NAME=containerd:SOCKET#moby" in why) == ("docker", True)


def test_the_same_data_root_is_one_store(root: Path) -> None:
    place = docker_root(root / "home/.local/share/docker")
    daemon_json(root, **{"data-root": str(place)})
    assert [(each.name, each.place) for each in found(root, uid=1000).stores] == [("docker", str(place))]


def test_a_user_configures_the_users_own_docker(root: Path) -> None:
    daemon_json(root, **{"data-root": str(docker_root(root / "srv/docker"))})
    own = docker_root(root / "home/data")
    (root / "home/.config/docker").mkdir(parents=True)
    (root / "home/.config/docker/daemon.json").write_text(json.dumps({"data-root": str(own)}))
    assert {each.name: each.place for each in found(root, uid=1000).stores} == {
        "docker": str(root / "srv/docker"),
        "docker-rootless": str(own),
    }


def test_a_socket_that_may_not_even_be_looked_at(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """dockerd makes /run/containerd for root alone; nobody else's commands may fail for that."""
    hidden = str(root / "run/containerd/containerd.sock")
    look = os.stat

    def stat(path: object, *arguments: object, **more: object) -> object:
        if str(path) == hidden:
            raise PermissionError(13, "Permission denied", hidden)
        return look(path, *arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "stat", stat)
    assert found(root, uid=1000).stores == ()
    assert [each.place for each, _ in found(root, uid=1000).closed] == [hidden]


async def test_named_stores(tmp_path: Path) -> None:
    place = docker_root(tmp_path / "docker")
    settings = load(stores=(f"mine=docker:{place}+/run/d.sock", f"here=local:{tmp_path}/state"))
    async with opening.opened_stores(settings, create=True) as stores:
        assert [(name, store.location) for name, store in stores.items()] == [
            ("mine", f"docker:{place}+/run/d.sock"),
            ("here", f"local:{tmp_path}/state"),
        ]


@pytest.mark.parametrize(
    ("stores", "error", "complaint"),
    [
        (("a=docker:/nowhere/at/all",), NotFound, "there is no directory /nowhere/at/all for store a"),
        (("a=local:/nowhere/at/all",), NotFound, "there is no store at /nowhere/at/all"),
        (("a=docker:/tmp", "a=oci-layout:/tmp"), InvalidRequest, "two stores are named 'a'"),
        (("a=local:/tmp/1", "b=local:/tmp/2"), InvalidRequest, "only one embedded store"),
    ],
)
async def test_named_stores_that_cannot_be_opened(
    stores: tuple[str, ...], error: type[Exception], complaint: str
) -> None:
    with pytest.raises(error, match=complaint):
        async with opening.opened_stores(load(stores=stores), create=False):
            pass


async def test_nothing_named_and_nothing_found(tmp_path: Path) -> None:
    async with opening.opened_stores(load(state=tmp_path / "state", discover=False), create=False) as stores:
        assert stores == {}
    async with opening.opened_stores(load(state=tmp_path / "state", discover=False), create=True) as stores:
        assert list(stores) == ["local"]
