"""Stores of fuse-overlayfs: read from their layers, they hold what fuse-overlayfs itself shows of them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest
from property.test_merge import seen
from support.members import apply_all, members
from support.trees import Append, Dir, File, Link, Remove, Rename, Set, Symlink, Whiteout, copy, make, snapshot

from streamer import drivers
from streamer.changeset.apply import Applier, Whiteouts
from streamer.changeset.walk import walk
from streamer.errors import Unsupported
from streamer.mounts.mount import Snapshot
from streamer.mounts.table import MountTable

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(shutil.which("fuse-overlayfs") is None, reason="needs fuse-overlayfs (apt-get install)"),
]

LOWER = (
    Dir("etc", File("passwd", "root"), File("group", "g"), Symlink("mtab", "x")),
    Dir("usr", Dir("lib", File("libc", "c" * 50)), File("bin", "b"), Link("same", "usr/bin")),
    File("top", "t"),
    File("gone"),
)
CHANGED = (
    Remove("gone"),
    Remove("etc"),
    Dir("etc", File("only", "new")),
    Append("top", "more"),
    Set("usr", mode=0o700),
    Remove("usr/bin"),
    Rename("usr/lib", "usr/lib64"),
    Dir("new", File("f", "f"), File(".whatever")),
    Link("new/g", "new/f"),
)
# What an engine puts into a layer where it may not make devices or set attributes of root.
BY_FILES = (
    File(".wh.gone"),
    Dir("etc", File(".wh..wh..opq"), File("passwd", "mine")),
    Dir("usr", Whiteout("bin"), File(".wh.same"), File("same", "hidden as well")),
    File(".wh.dir"),
    Dir("dir", File("hidden as well")),
)


@contextmanager
def mounted(base: Path, lowers: list[Path], upper: Path | None = None) -> Iterator[Path]:
    """What fuse-overlayfs shows of the layers, topmost first."""
    target = base / "merged"
    target.mkdir(exist_ok=True)
    options = "lowerdir=" + ":".join(map(str, lowers))
    if upper is not None:
        (base / "work").mkdir(exist_ok=True)
        options += f",upperdir={upper},workdir={base / 'work'}"
    process = subprocess.Popen(["fuse-overlayfs", "-f", "-o", options, target], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not os.path.ismount(target):
            assert process.poll() is None and time.monotonic() < deadline, "fuse-overlayfs did not mount"
            time.sleep(0.005)
        yield target
    finally:
        subprocess.run(["umount", target], check=True)
        # Mount namespaces that other tests made meanwhile have a copy, and it would not end before the last of them.
        process.terminate()
        process.wait(timeout=60)


@pytest.fixture
def layers(tmp_path: Path) -> list[Path]:
    """Three lower layers, topmost first, written in three ways."""
    paths = [tmp_path / name for name in ("user", "files", "bottom")]
    make(paths[2], *LOWER, Dir("dir", File("old")), File("back"), Dir("opaque", File("old")))
    make(paths[1], *BY_FILES, Whiteout("back"))
    make(paths[0], Dir("opaque", File("new"), xattrs={"user.fuseoverlayfs.opaque": b"y"}), File("back", "again"))
    return paths


def snapshot_of(lowers: list[Path], upper: Path | None = None) -> Snapshot:
    return Snapshot("fuse-overlay", tuple(map(bytes, lowers)), None if upper is None else bytes(upper))


def same_tree(table: MountTable, kept: Snapshot, shown: Path) -> None:
    """Order, names, types, modes, owners, times, attributes and contents."""
    root = os.open(shown, os.O_RDONLY)
    try:
        with drivers.of(kept).tree(table, kept) as tree, closing(tree.nodes()) as nodes, closing(walk(root)) as wanted:
            assert [seen(node) for node in nodes] == [seen(node) for node in wanted]
    finally:
        os.close(root)


def diff_gives(table: MountTable, kept: Snapshot, parent: Snapshot, below: Path, wanted: object) -> None:
    """The changes, applied on a copy of what was below, give the tree."""
    root = os.open(below, os.O_RDONLY)
    try:
        with (
            drivers.of(kept).changes(table, kept, parent) as found,  # type: ignore[attr-defined]
            Applier(root, whiteouts=Whiteouts.DELETE) as applier,
        ):
            apply_all(applier, members(found))
    finally:
        os.close(root)
    assert snapshot(below) == wanted


def test_a_container(tmp_path: Path, layers: list[Path]) -> None:
    upper = tmp_path / "upper"
    upper.mkdir()
    (tmp_path / "plain").mkdir()
    bottom = layers[2:]
    with mounted(tmp_path, bottom, upper) as merged:
        make(merged, *CHANGED)
    table = MountTable()
    kept = snapshot_of(bottom, upper)
    with mounted(tmp_path, [upper, *bottom]) as merged:
        same_tree(table, kept, merged)
        wanted = snapshot(merged)
    with mounted(tmp_path, bottom) as below:
        copy(below, tmp_path / "plain")
    diff_gives(table, kept, snapshot_of(bottom), tmp_path / "plain", wanted)
    assert table.statistics().leases == 0


@pytest.mark.parametrize("way", ["tree", "changes"])
def test_files_that_are_still_open(tmp_path: Path, layers: list[Path], way: str) -> None:
    """The mount's writeback cache alone knows their size and content."""
    upper = tmp_path / "upper"
    upper.mkdir()
    table, kept = MountTable(), snapshot_of(layers, upper)
    written = {b"new%d" % number: bytes([number]) * 500_000 for number in range(10)}
    with mounted(tmp_path, layers, upper) as merged, ExitStack() as stack:
        for name, data in written.items():
            stack.enter_context(open(bytes(merged) + b"/" + name, "wb", buffering=0)).write(data)
        assert not os.stat(upper / "new0").st_size, "fuse-overlayfs kept nothing back"
        driver = drivers.of(kept)
        if way == "tree":
            nodes = stack.enter_context(closing(stack.enter_context(driver.tree(table, kept)).nodes()))
        else:
            found = stack.enter_context(driver.changes(table, kept, snapshot_of(layers)))  # type: ignore[attr-defined]
            nodes = (change.node for change in found)
        assert {node.path: seen(node)[-1] for node in nodes if node.path in written} == written
    assert table.statistics().leases == 0


def test_a_file_still_open_in_a_user_namespace(tmp_path: Path) -> None:
    """As in an ordinary user's container: its mount lies in another mount namespace and opens nothing to this one."""
    for name in ("lower", "upper", "work", "merged"):
        (tmp_path / name).mkdir()
    options = f"lowerdir={tmp_path}/lower,upperdir={tmp_path}/upper,workdir={tmp_path}/work"
    writes = (
        f"f = open('{tmp_path}/merged/new', 'wb', 0); f.write(bytes(900_000)); print('written', flush=True); input(); "
        "f.close()"
    )
    script = f"""
        trap 'umount {tmp_path}/merged' EXIT
        fuse-overlayfs -o {options} {tmp_path}/merged 2>/dev/null
        {sys.executable} -c "{writes}"
    """
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-ec", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == b"written\n"
        assert not (tmp_path / "upper/new").stat().st_size, "fuse-overlayfs kept nothing back"
        kept = snapshot_of([tmp_path / "lower"], tmp_path / "upper")
        with drivers.of(kept).tree(MountTable(), kept) as tree:
            assert tree.status(b"new").st_size == 900_000
        process.stdin.write(b"\n")
    assert process.returncode == 0


def test_marks_of_every_kind(tmp_path: Path, layers: list[Path]) -> None:
    table = MountTable()
    with mounted(tmp_path, layers) as merged:
        same_tree(table, snapshot_of(layers), merged)
        assert sorted(os.listdir(merged / "etc")) == ["passwd"]
        wanted = snapshot(merged)
    with mounted(tmp_path, layers[1:]) as merged:
        (tmp_path / "plain").mkdir()
        copy(merged, tmp_path / "plain")
    diff_gives(table, snapshot_of(layers), snapshot_of(layers[1:]), tmp_path / "plain", wanted)


def test_deletions_by_files(tmp_path: Path, layers: list[Path]) -> None:
    with mounted(tmp_path, layers[1:]) as merged:
        wanted = snapshot(merged)
    with mounted(tmp_path, layers[2:]) as below:
        (tmp_path / "plain").mkdir()
        copy(below, tmp_path / "plain")
    diff_gives(MountTable(), snapshot_of(layers[1:]), snapshot_of(layers[2:]), tmp_path / "plain", wanted)


def test_an_opaque_root(tmp_path: Path, layers: list[Path]) -> None:
    (layers[1] / ".wh..wh..opq").touch()
    with mounted(tmp_path, layers) as merged:
        assert "top" not in os.listdir(merged)
        same_tree(MountTable(), snapshot_of(layers), merged)
    kept = snapshot_of(layers[1:])
    with (
        pytest.raises(Unsupported, match="root directory"),
        drivers.of(kept).changes(MountTable(), kept, snapshot_of(layers[2:])) as found,  # type: ignore[attr-defined]
    ):
        list(found)


def test_written_in_a_user_namespace(tmp_path: Path, layers: list[Path]) -> None:
    """As an ordinary user's engine does it: the marks are user attributes."""
    upper, merged = tmp_path / "upper", tmp_path / "merged"
    for path in (upper, merged, tmp_path / "work"):
        path.mkdir()
    lower = layers[2]
    options = f"lowerdir={lower},upperdir={upper},workdir={tmp_path / 'work'}"
    script = f"""
        fuse-overlayfs -o {options} {merged} 2>/dev/null
        cd {merged} && rm -r gone etc usr/lib && mkdir etc && echo new >etc/only && chmod 600 top && mkdir -p n/e
        cd / && umount {merged}
    """
    subprocess.run(["unshare", "--user", "--map-root-user", "--mount", "sh", "-ec", script], check=True)
    assert os.listxattr(upper / "etc") == ["user.fuseoverlayfs.opaque"]
    with mounted(tmp_path, [upper, lower]) as shown:
        same_tree(MountTable(), snapshot_of([lower], upper), shown)
        wanted = snapshot(shown)
    (tmp_path / "plain").mkdir()
    with mounted(tmp_path, [lower]) as below:
        copy(below, tmp_path / "plain")
    diff_gives(MountTable(), snapshot_of([lower], upper), snapshot_of([lower]), tmp_path / "plain", wanted)


def test_owners_in_attributes_are_refused(layers: list[Path]) -> None:
    os.setxattr(layers[1], "user.containers.override_stat", b"0:0:0755")
    kept = snapshot_of(layers)
    with pytest.raises(Unsupported, match="force_mask"), drivers.of(kept).tree(MountTable(), kept):
        pytest.fail("opened")
