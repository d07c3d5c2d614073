"""What every driver keeps to, run on each: mounts are values, a lease shows the tree, the changes are the changes."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import pytest

from streamer import drivers
from streamer.changeset.change import Change, Kind, Node
from streamer.changeset.compare import compare
from streamer.changeset.content import open_regular
from streamer.drivers.base import DiffDriver
from streamer.errors import InvalidRequest, NotFound, SourceChanged, Unsupported
from streamer.mounts.mount import Mount, Snapshot
from streamer.mounts.table import MountTable

pytestmark = pytest.mark.root

# Below: what the parent has. Above: what is written over it (None: deleted).
BELOW = {"kept": b"kept", "changed": b"old", "dir/inner": b"inner", "dir/gone": b"gone", "away/all": b"x"}
ABOVE = {"changed": b"new bytes", "dir/gone": None, "dir/more": b"more", "away": None, "new/file": b"new"}
MERGED = {"kept": b"kept", "changed": b"new bytes", "dir/inner": b"inner", "dir/more": b"more", "new/file": b"new"}
CHANGES = [
    (Kind.DELETE, b"away"),
    (Kind.MODIFY, b"changed"),
    (Kind.MODIFY, b"dir"),
    (Kind.DELETE, b"dir/gone"),
    (Kind.ADD, b"dir/more"),
    (Kind.ADD, b"new"),
    (Kind.ADD, b"new/file"),
]


class Keep(Protocol):
    """Writes a parent (None: nothing) and what was laid over it as a driver's store would."""

    def __call__(self, root: Path, below: dict[str, bytes] | None, above: dict[str, bytes | None]) -> Pair: ...


Pair = tuple[Snapshot, Snapshot | None]


def write(root: Path, files: dict[str, bytes] | dict[str, bytes | None]) -> None:
    for name, data in files.items():
        if data is not None:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(data)


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def keep_overlay(root: Path, below: dict[str, bytes] | None, above: dict[str, bytes | None]) -> Pair:
    upper, lower = root / "upper", root / "lower"
    upper.mkdir()
    write(upper, above)
    for name, data in above.items():
        if data is None:
            (upper / name).parent.mkdir(parents=True, exist_ok=True)
            os.mknod(upper / name, stat.S_IFCHR, os.makedev(0, 0))
    if below is None:
        return Snapshot("overlay", (), upper=os.fsencode(upper)), None
    lower.mkdir()
    write(lower, below)
    parent = Snapshot("overlay", (os.fsencode(lower),))
    return Snapshot("overlay", parent.layers, upper=os.fsencode(upper)), parent


def keep_directory(root: Path, below: dict[str, bytes] | None, above: dict[str, bytes | None]) -> Pair:
    whole, lower = root / "whole", root / "lower"
    lower.mkdir()
    write(lower, below or {})
    shutil.copytree(lower, whole)
    for name, data in above.items():
        if data is None:
            remove(whole / name)
    write(whole, above)
    parent = Snapshot("directory", (os.fsencode(lower),)) if below is not None else None
    return Snapshot("directory", (), upper=os.fsencode(whole)), parent


def keep_fuse(root: Path, below: dict[str, bytes] | None, above: dict[str, bytes | None]) -> Pair:
    """Deletions are files, as fuse-overlayfs has it where it may not make devices."""
    snapshot, parent = keep_overlay(root, below, above)
    for path in [*root.rglob("*")]:
        if path.is_char_device():
            path.unlink()
            (path.parent / f".wh.{path.name}").touch()
    kept = None if parent is None else replace(parent, driver="fuse-overlay")
    return replace(snapshot, driver="fuse-overlay"), kept


@pytest.fixture(params=[keep_overlay, keep_directory, keep_fuse], ids=["overlay", "directory", "fuse-overlay"])
def keep(request: pytest.FixtureRequest) -> Keep:
    keep: Keep = request.param
    return keep


@pytest.fixture
def table() -> Iterator[MountTable]:
    before = set(os.listdir("/proc/self/fd"))
    table = MountTable()
    yield table
    counts = table.statistics()
    assert (counts.leases, counts.mounts) == (0, 0)
    # What a test before left to the garbage collector may have gone meanwhile.
    assert set(os.listdir("/proc/self/fd")) <= before


@contextmanager
def changed(table: MountTable, snapshot: Snapshot, parent: Snapshot | None) -> Iterator[Iterator[Change]]:
    """What a caller does with a driver: let it tell the changes if it can, or compare what it mounts."""
    driver = drivers.of(snapshot)
    if isinstance(driver, DiffDriver) and driver.comparable(snapshot, parent):
        with driver.changes(table, snapshot, parent) as found:
            yield found
        return
    below = Mount(()) if parent is None else drivers.of(parent).mounts(parent)[0]
    with (
        table.lease(drivers.of(snapshot).mounts(snapshot)[0]) as new,
        table.lease(below) as old,
        closing(compare(old, new)) as found,
    ):
        yield found


@pytest.fixture(params=[True, False], ids=["mounted", "unmounted"])
def mountable(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both for a process that may mount and for one that may not."""
    if not request.param:
        monkeypatch.setattr(MountTable, "possible", lambda _, mount: len(mount.layers) < 2)


def read(node: Node) -> bytes:
    file = open_regular(node)
    try:
        return os.read(file, 100)
    finally:
        os.close(file)


def test_mounts_are_values(keep: Keep, tmp_path: Path) -> None:
    root = tmp_path / "store"
    root.mkdir()
    snapshot, _ = keep(root, BELOW, ABOVE)
    if snapshot.driver == "fuse-overlay":
        with pytest.raises(Unsupported):
            drivers.of(snapshot).mounts(snapshot)
        return
    before = drivers.of(snapshot).mounts(snapshot)
    assert before == (Mount(snapshot.layers),)
    shutil.rmtree(root)
    assert drivers.of(snapshot).mounts(snapshot) == before


@pytest.mark.usefixtures("mountable")
@pytest.mark.parametrize("shared", [True, False])
def test_a_tree(keep: Keep, table: MountTable, tmp_path: Path, shared: bool) -> None:
    snapshot, parent = keep(tmp_path, BELOW, ABOVE)
    assert parent is not None
    for one, expected in ((snapshot, MERGED), (parent, BELOW)):
        with drivers.of(one).tree(table, one, shared=shared) as tree, closing(tree.nodes()) as nodes:
            found = {n.path.decode(): read(n) for n in nodes if stat.S_ISREG(n.stat.st_mode)}
            assert table.statistics().leases
        assert found == expected


@pytest.mark.usefixtures("mountable")
def test_a_subtree(keep: Keep, table: MountTable, tmp_path: Path) -> None:
    snapshot, _ = keep(tmp_path, BELOW, ABOVE)
    upper = tmp_path / os.fsdecode(snapshot.layers[0])
    (upper / "link").symlink_to("/dir/../dir")
    (upper / "loop").symlink_to("loop")
    with drivers.of(snapshot).tree(table, snapshot) as tree:
        for path, expected in (
            (b"dir", [b"dir", b"dir/inner", b"dir/more"]),
            (b"/link/inner", [b"inner"]),
            (b"link", [b"link"]),
            (b"new/./../../dir/more", [b"more"]),
        ):
            assert [node.path for node in tree.nodes(path)] == expected
            assert stat.S_IFMT(tree.status(path).st_mode) == stat.S_IFMT(next(tree.nodes(path)).stat.st_mode)
        assert stat.S_ISDIR(tree.status(b"").st_mode)
        assert tree.has(b"dir/inner") and not tree.has(b"link/inner") and not tree.has(b"dir/gone")
        assert not tree.has(b"kept/x") and not tree.has(b"n" * 300)
        for path, kind in ((b"", stat.S_IFDIR), (b"dir/inner", 0), (b"dir", stat.S_IFDIR), (b"link", stat.S_IFLNK)):
            with tree.at(path) as node:
                assert node is not None and node.path == path
                assert kind in (0, stat.S_IFMT(node.stat.st_mode))
                assert os.stat(node.name, dir_fd=node.parent, follow_symlinks=False).st_ino == node.stat.st_ino
        for path in (b"link/inner", b"dir/gone", b"kept/x", b"n" * 300, b"n" * 300 + b"/x"):
            with tree.at(path) as node:
                assert node is None
        for path, error in (
            (b"nothing", NotFound),
            (b"away/all", NotFound),
            (b"dir/gone", NotFound),
            (b"kept/x", NotFound),
            (b"loop/x", InvalidRequest),
            (b"n" * 300, InvalidRequest),
            (b"n" * 300 + b"/x", InvalidRequest),
        ):
            with pytest.raises(error):
                tree.status(path)
            with pytest.raises(error):
                list(tree.nodes(path))


def test_an_empty_snapshot(keep: Keep, table: MountTable, tmp_path: Path) -> None:
    snapshot, _ = keep(tmp_path, BELOW, ABOVE)
    empty = replace(snapshot, lowers=(), upper=None)
    with drivers.of(empty).tree(table, empty) as tree, closing(tree.nodes()) as nodes:
        assert [node.path for node in nodes] == [b""]


@pytest.mark.usefixtures("mountable")
def test_changes(keep: Keep, table: MountTable, tmp_path: Path) -> None:
    with changed(table, *keep(tmp_path, BELOW, ABOVE)) as found:
        seen = []
        for change in found:
            seen.append((change.kind, change.path))
            if change.node is not None and change.kind is not Kind.DELETE and stat.S_ISREG(change.node.stat.st_mode):
                assert read(change.node) == MERGED[os.fsdecode(change.path)]
    # Deletions stand where the driver finds them; everything else is in the order of the walk.
    assert sorted(seen, key=lambda one: one[1]) == CHANGES
    assert [one for one in seen if one[0] is not Kind.DELETE] == [one for one in CHANGES if one[0] is not Kind.DELETE]


def test_changes_from_nothing(keep: Keep, table: MountTable, tmp_path: Path) -> None:
    snapshot, _ = keep(tmp_path, None, {"a/b": b"b", "c": b"c"})
    with changed(table, snapshot, None) as found:
        assert [(change.kind, change.path) for change in found] == [
            (Kind.ADD, b"a"),
            (Kind.ADD, b"a/b"),
            (Kind.ADD, b"c"),
        ]


def test_no_changes(keep: Keep, table: MountTable, tmp_path: Path) -> None:
    with changed(table, *keep(tmp_path, BELOW, {})) as found:
        assert list(found) == []


def test_changes_given_up(keep: Keep, table: MountTable, tmp_path: Path) -> None:
    with changed(table, *keep(tmp_path, BELOW, ABOVE)) as found:
        next(found)
        assert table.statistics().leases


def test_a_snapshot_that_is_gone(keep: Keep, table: MountTable, tmp_path: Path) -> None:
    snapshot, parent = keep(tmp_path, BELOW, ABOVE)
    shutil.rmtree(os.fsdecode(snapshot.layers[0]))
    with pytest.raises(SourceChanged, match="is gone"), changed(table, snapshot, parent):
        pytest.fail("opened")
