"""A process recognizes the container that it runs in."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamer.mounts.mount import Snapshot
from streamer.stores.itself import is_itself

MINE, OTHER, LAYER = "a" * 64, "b" * 64, "c" * 64
TREE = Snapshot("directory", (), b"/store/vfs/dir/" + LAYER.encode())
OVERLAY = Snapshot("overlay", (), f"/host/var/lib/docker/overlay2/{LAYER}/diff".encode())
ON_OVERLAY = "30 20 0:9 / / rw - overlay overlay rw,lowerdir=/l,upperdir={},workdir=/w"
BOUND = "31 30 8:1 /var/lib/docker/containers/{}/{} /etc/{} rw shared:3 - ext4 /dev/sda1 rw"
ON_DISK = "30 20 8:1 / / rw - ext4 /dev/sda1 rw"


def proc(folder: Path, cgroup: str = "0::/\n", *mounts: str) -> Path:
    (folder / "self").mkdir()
    (folder / "self" / "cgroup").write_text(cgroup)
    (folder / "self" / "mountinfo").write_text("".join(f"{line}\n" for line in mounts))
    return folder


@pytest.mark.parametrize(
    "cgroup",
    [
        f"9:name=systemd:/\n6:freezer:/docker/{MINE}\n0::/\n",
        f"0::/system.slice/docker-{MINE}.scope\n",
        f"0::/machine.slice/libpod-{MINE}.scope/container\n",
        f"0::/kubepods.slice/kubepods-pod1.slice/cri-containerd-{MINE}.scope/app\n",
        f"5:freezer:/docker/{MINE}/docker/{OTHER}\n",
    ],
)
def test_by_its_control_group_or_one_around_it(tmp_path: Path, cgroup: str) -> None:
    seen = proc(tmp_path, cgroup, ON_DISK)
    assert is_itself(MINE, TREE, seen)
    assert not is_itself(MINE[:-1], TREE, seen)


def test_another_controllers_group_does_not_count(tmp_path: Path) -> None:
    assert not is_itself(MINE, TREE, proc(tmp_path, f"4:memory:/docker/{MINE}\n0::/\n", ON_DISK))


@pytest.mark.parametrize("name", ["hostname", "hosts", "resolv.conf"])
def test_by_what_the_engine_binds(tmp_path: Path, name: str) -> None:
    seen = proc(tmp_path, "0::/\n", ON_DISK, BOUND.format(MINE, name, name))
    assert is_itself(MINE, TREE, seen)
    assert not is_itself(OTHER, TREE, seen)


def test_mounts_of_others_that_are_seen_do_not_count(tmp_path: Path) -> None:
    shm = f"40 30 0:5 / /var/lib/docker/containers/{MINE}/mounts/shm rw - tmpfs shm rw"
    bound = f"41 30 8:1 /var/lib/docker/containers/{MINE}/hosts /host/etc/hosts rw - ext4 /dev/sda1 rw"
    assert not is_itself(MINE, TREE, proc(tmp_path, "0::/\n", ON_DISK, shm, bound))


@pytest.mark.parametrize("upper", [f"/var/lib/docker/overlay2/{LAYER}/diff", f"{LAYER}/diff"])
def test_by_its_root_file_system(tmp_path: Path, upper: str) -> None:
    assert is_itself(MINE, OVERLAY, proc(tmp_path, "0::/\n", ON_OVERLAY.format(upper)))


def test_one_whose_network_it_shares_is_another(tmp_path: Path) -> None:
    """Then the files that the engine binds are that one's."""
    root = ON_OVERLAY.format(f"/var/lib/docker/overlay2/{OTHER}/diff")
    assert not is_itself(MINE, OVERLAY, proc(tmp_path, "0::/\n", root, BOUND.format(MINE, "hosts", "hosts")))


@pytest.mark.parametrize("line", ["", "x", " - ", "1 2 3 4", "30 20 0:9 / / rw - overlay", "30 20 0:9 / / - overlay o"])
def test_lines_that_say_nothing(tmp_path: Path, line: str) -> None:
    assert not is_itself(MINE, OVERLAY, proc(tmp_path, "nothing\n", line))


def test_without_proc(tmp_path: Path) -> None:
    assert not is_itself(MINE, OVERLAY, tmp_path)


def test_this_very_process_is_in_no_container_of_that_name() -> None:
    assert not is_itself(MINE, OVERLAY)
