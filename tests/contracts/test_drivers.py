"""What every driver keeps to, run on each: mounts are values, a lease shows the tree, the changes are the changes."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Protocol

import pytest

from streamer import drivers
from streamer.changeset.change import Change, Kind
from streamer.changeset.compare import compare
from streamer.drivers.base import DiffDriver
from streamer.errors import SourceChanged
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


@pytest.fixture(params=[keep_overlay, keep_directory], ids=["overlay", "directory"])
def keep(request: pytest.FixtureRequest) -> Keep:
    keep: Keep = request.param
    return keep


@pytest.fixture
def table() -> Iterator[MountTable]:
    before = sorted(os.listdir("/proc/self/fd"))
    table = MountTable()
    yield table
    counts = table.statistics()
    assert (counts.leases, counts.mounts) == (0, 0)
    assert sorted(os.listdir("/proc/self/fd")) == before


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


def tree(root: int) -> dict[str, bytes]:
    base = f"/proc/self/fd/{root}/"
    files = [os.path.join(directory, name) for directory, _, names in os.walk(base) for name in names]
    return {file.removeprefix(base): Path(file).read_bytes() for file in files}


def test_mounts_are_values(keep: Keep, tmp_path: Path) -> None:
    root = tmp_path / "store"
    root.mkdir()
    snapshot, _ = keep(root, BELOW, ABOVE)
    before = drivers.of(snapshot).mounts(snapshot)
    assert before == (Mount(snapshot.layers),)
    shutil.rmtree(root)
    assert drivers.of(snapshot).mounts(snapshot) == before


def test_a_lease_shows_the_tree(keep: Keep, table: MountTable, tmp_path: Path) -> None:
    snapshot, parent = keep(tmp_path, BELOW, ABOVE)
    assert parent is not None
    for one, expected in ((snapshot, MERGED), (parent, BELOW)):
        (mount,) = drivers.of(one).mounts(one)
        with table.lease(mount) as root:
            assert tree(root) == expected


def test_changes(keep: Keep, table: MountTable, tmp_path: Path) -> None:
    with changed(table, *keep(tmp_path, BELOW, ABOVE)) as found:
        seen = []
        for change in found:
            seen.append((change.kind, change.path))
            if change.node is not None and change.kind is not Kind.DELETE and stat.S_ISREG(change.node.stat.st_mode):
                file = os.open(change.node.name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=change.node.parent)
                try:
                    assert os.read(file, 100) == MERGED[os.fsdecode(change.path)]
                finally:
                    os.close(file)
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
