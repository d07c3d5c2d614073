"""A node with every engine on it, found without being told, and the same image in all of their stores."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import images
from support.engines import Command, Engines
from support.images import file, layer

pytestmark = [pytest.mark.engine, pytest.mark.root]

IMAGE = images.image(layer(file("hello", b"everywhere")), names=["everywhere:1"])


@pytest.fixture(scope="module")
def node(engines: Engines, docker: Command, podman: Command, ctr: Command, containerd: Path) -> Iterator[Command]:
    """`streamer` on that node: the private namespace has the engines' configuration where it belongs."""
    (engines.home / "over/etc/docker").mkdir(exist_ok=True)
    daemon = engines.home / "over/etc/docker/daemon.json"
    daemon.write_text(json.dumps({"data-root": str(docker.root)}))
    (engines.home / "over/etc/containers").mkdir(exist_ok=True)
    conf = engines.home / "over/etc/containers/storage.conf"
    before = conf.read_bytes() if conf.exists() else None
    conf.write_text(f'[storage]\ndriver = "overlay"\ngraphroot = "{podman.root}"\nrunroot = "{podman.root}/../run"\n')
    archive = engines.home / "everywhere.tar"
    archive.write_bytes(images.pack(images.docker(IMAGE)))
    docker("load", "-q", "-i", archive)
    podman("load", "-q", "-i", archive)
    ctr("images", "import", archive)
    try:
        yield engines.command(
            sys.executable,
            *("-m", "streamer", "--state", engines.home / "state"),
            STREAMER_DISCOVER="yes",
            CONTAINERD_ADDRESS=str(containerd),
            PYTHONPATH=str(Path(__file__).parents[2]),
        )
    finally:
        docker("rmi", "-f", IMAGE.id)
        podman("rmi", "-f", IMAGE.id.removeprefix("sha256:"))
        ctr("images", "remove", "--sync", "docker.io/library/everywhere:1")
        daemon.unlink()
        conf.unlink() if before is None else conf.write_bytes(before)


STORES = ("docker", "containers-storage", "containerd-tests")


def test_every_store_is_found(node: Command) -> None:
    found = {each["name"]: each["kind"] for each in node.json("ls", "stores", "--json")}
    assert {name: found.get(name) for name in STORES} == {
        "docker": "docker",
        "containers-storage": "containers-storage",
        "containerd-tests": "containerd",
    }


def test_the_same_image_is_listed_for_each(node: Command) -> None:
    listed = [each["store"] for each in node.json("ls", "images", "--json") if each["id"] == IMAGE.id]
    assert sorted(listed) == sorted(STORES)


def test_a_name_in_several_stores(node: Command) -> None:
    told = node("export", "rootfs", "everywhere:1", fails=True).decode()
    assert "is in several stores (docker, containers-storage, containerd-tests)" in " ".join(told.split())


@pytest.mark.parametrize("store", STORES)
def test_each_store_gives_it(node: Command, store: str, tmp_path: Path) -> None:
    data = node("export", "layer", IMAGE.diff_ids[0], "--from-store", store)
    assert "sha256:" + hashlib.sha256(data).hexdigest() == IMAGE.diff_ids[0]
    assert b"everywhere" in node("export", "rootfs", "everywhere:1", "--from-store", store)
    assert len(node("export", "image", "everywhere:1", "--from-store", store)) % 512 == 0


def test_doctor_tells_of_them(node: Command) -> None:
    lines = [one["follows"] for one in node.json("doctor", "--json") if one["name"] == "store"]
    for name in STORES:
        assert any(line.startswith(f"{name} (") and "opens; images" in line for line in lines), lines
