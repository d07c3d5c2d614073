"""How owners on disk are numbered in containers, and what they do now."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from support import images
from support.handmade import Handmade
from support.images import file, layer

from streamer.errors import Unsupported
from streamer.mounts.mount import OVERFLOW, Ids, Snapshot
from streamer.stores import subids
from streamer.stores.containers_storage.options import StorageOptions
from streamer.stores.containers_storage.places import Place
from streamer.stores.containers_storage.status import status
from streamer.stores.containers_storage.store import containers_storage

IMAGE = images.image(layer(file("a", b"a")))
UIDMAP = {
    "uidmap": [{"container_id": 0, "host_id": 100_000, "size": 5000}],
    "gidmap": [{"container_id": 0, "host_id": 200_000, "size": 5000}],
}


def test_subordinate_ids(tmp_path: Path) -> None:
    (tmp_path / "subuid").write_text("other:1:2\n54321:100000:65536\n\n54321:bad:1\n54321:300000:10\n54321:5:0\n")
    (tmp_path / "subgid").write_bytes(b"54321:400000:1\n\xff\n54321\n54321:1:99999999999999999999\n")
    ids = subids.rootless(54321, 54322, tmp_path / "subuid", tmp_path / "subgid")
    assert ids.users == ((0, 54321, 1), (1, 100_000, 65_536), (65_537, 300_000, 10))
    assert ids.groups == ((0, 54322, 1), (1, 400_000, 1))
    assert subids.rootless(7, 8, tmp_path / "no", tmp_path / "no") == Ids(((0, 7, 1),), ((0, 8, 1),))
    root = subids.rootless(0, 0, tmp_path / "subuid", tmp_path / "no")
    assert root.inside(0, 0) == (0, 0)
    assert root.inside(1, 1) == (OVERFLOW, OVERFLOW)


async def _box(made: Handmade, options: StorageOptions | None = None) -> Snapshot:
    made.save()
    return (await containers_storage("s", made.root, options=options).container("box")).snapshot


@pytest.mark.root
async def test_a_store_of_root(tmp_path: Path) -> None:
    made = Handmade(tmp_path / "root")
    made.container("box", made.image(IMAGE, "localhost/x:1"))
    assert (await _box(made)).ids is None


@pytest.mark.root
async def test_a_container_in_a_user_namespace(tmp_path: Path) -> None:
    """Of mounts that show the image shifted: what the container wrote is shifted on disk, its image is not."""
    made = Handmade(tmp_path / "root")
    made.container("box", made.image(IMAGE, "localhost/x:1"), **UIDMAP)
    ids = (await _box(made)).ids
    assert ids is not None
    assert [ids.inside(*owner) for owner in ((0, 0), (100_007, 200_008), (4999, 4999))] == [
        (0, 0),
        (7, 8),
        (4999, 4999),
    ]
    # What no mapping has is nobody's, inside as well.
    assert ids.inside(5000, 104_999) == (OVERFLOW, OVERFLOW)
    image = (await containers_storage("s", made.root).image("x:1")).layers[0].snapshot
    assert image is not None
    assert image.ids is None


@pytest.mark.root
async def test_a_container_on_a_shifted_copy(tmp_path: Path) -> None:
    made = Handmade(tmp_path / "root")
    made.container("box", made.image(IMAGE, "localhost/x:1"), **UIDMAP)
    for each in made.layers:
        each.update(UIDMAP)
    ids = (await _box(made)).ids
    assert ids is not None
    assert ids.inside(100_007, 200_008) == (7, 8)
    assert ids.inside(7, 8) == (OVERFLOW, OVERFLOW)


@pytest.mark.root
async def test_a_driver_that_shifts(tmp_path: Path) -> None:
    made = Handmade(tmp_path / "root")
    made.container("box", made.image(IMAGE, "localhost/x:1"), **UIDMAP)
    (made.root / "overlay/.has-mount-program").write_text("true")
    assert (await _box(made)).ids is None


async def test_owners_that_cannot_be_told_apart(tmp_path: Path) -> None:
    made = Handmade(tmp_path / "root")
    overlapping: dict[str, Any] = {"uidmap": [{"container_id": 0, "host_id": 1000, "size": 5000}], "gidmap": []}
    made.container("box", made.image(IMAGE, "localhost/x:1"), **overlapping)
    made.save()
    box = await containers_storage("s", made.root).container("box")
    with pytest.raises(Unsupported, match="overlap"):
        box.held()


@pytest.mark.root
async def test_a_store_of_a_user(tmp_path: Path) -> None:
    made = Handmade(tmp_path / "root")
    made.container("box", made.image(IMAGE, "localhost/x:1"))
    # `--userns=keep-id`: numbers outside are those of the user's own namespace.
    keep = [(0, 1, 1000), (1000, 0, 1), (1001, 1001, 64_536)]
    ranges = [{"container_id": a, "host_id": b, "size": c} for a, b, c in keep]
    made.container("kept", made.images[0]["id"], uidmap=ranges, gidmap=ranges)
    made.layers[-1].update(uidmap=ranges, gidmap=ranges)
    copy = {**made.layers[0], "id": "c" * 64, "uidmap": ranges, "gidmap": ranges}
    made.tree("c" * 64).mkdir(parents=True)
    made.layers.append(copy)
    made.layers[-2]["parent"] = "c" * 64
    os.chown(made.root / "overlay", 54321, 54322)
    (tmp_path / "ids").write_text("54321:100000:65536\n")
    options = StorageOptions(subuid=tmp_path / "ids", subgid=tmp_path / "ids")
    box = await _box(made, options)
    assert box.userxattr
    assert box.ids is not None
    assert box.ids.inside(54321, 54322) == (0, 0)
    assert box.ids.inside(100_000, 100_999) == (1, 1000)
    store = containers_storage("s", made.root, options=options)
    kept = (await store.container("kept")).snapshot
    assert kept.ids is not None
    assert kept.ids.inside(54321, 54322) == (1000, 1000)
    assert kept.ids.inside(100_000, 100_999) == (0, 999)
    assert kept.ids.inside(0, 0) == (OVERFLOW, OVERFLOW)
    (found,) = await store.layers()
    assert found.snapshot is not None
    assert found.snapshot.layers == (bytes(made.tree(made.layers[0]["id"])),)


class Node:
    """Files below /proc and /sys/fs/cgroup, and a container's own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.place = Place("s", bytes(root / "graph"), "overlay")
        self.run = Place("s", bytes(root / "run"), "overlay", " of the run root")

    def write(self, path: str, text: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def status(self, run: bool = True) -> str:
        return status("c0ffee", self.place, self.run if run else None, self.root / "proc", self.root / "cgroup")


def test_status(tmp_path: Path) -> None:
    node = Node(tmp_path)
    assert node.status() == "created"
    node.write("graph/overlay-containers/c0ffee/userdata/config.json", "{}")
    assert node.status() == "exited"
    assert node.status(run=False) == ""
    node.write("run/overlay-containers/c0ffee/userdata/pidfile", "42\n")
    assert node.status() == "exited"
    node.write("proc/42/cgroup", "0::/user.slice/somebody\n")
    node.write("proc/42/stat", "42 (a) b) S 7 42 42")
    assert node.status() == "exited"
    node.write("proc/7/cmdline", "conmon\0-c\0c0ffee\0")
    assert node.status() == "running"
    node.write("proc/42/cgroup", "0::/machine.slice/libpod-c0ffee\n")
    (tmp_path / "proc/7/cmdline").unlink()
    assert node.status() == "running"
    node.write("cgroup/machine.slice/libpod-c0ffee/cgroup.events", "populated 1\nfrozen 1\n")
    assert node.status() == "paused"
    node.write("cgroup/machine.slice/libpod-c0ffee/cgroup.events", "populated 1\nfrozen 0\n")
    assert node.status() == "running"


def test_status_with_cgroup_v1(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.write("graph/overlay-containers/c0ffee/userdata/config.json", "{}")
    node.write("run/overlay-containers/c0ffee/userdata/pidfile", "42")
    node.write("proc/42/cgroup", "7:cpu:/x\n6:freezer:/libpod/libpod-c0ffee\n")
    node.write("cgroup/freezer/libpod/libpod-c0ffee/freezer.state", "FROZEN\n")
    assert node.status() == "paused"
    node.write("cgroup/freezer/libpod/libpod-c0ffee/freezer.state", "THAWED\n")
    assert node.status() == "running"


@pytest.mark.parametrize("text", ["", "x", "-1", "../1", "9" * 50, "\x00"])
def test_status_of_an_odd_pidfile(tmp_path: Path, text: str) -> None:
    node = Node(tmp_path)
    node.write("graph/overlay-containers/c0ffee/userdata/config.json", "{}")
    node.write("run/overlay-containers/c0ffee/userdata/pidfile", text)
    assert node.status() == "exited"
