"""The validators themselves: what says that two trees are alike notices when they are not."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import trees
from support.archives import records, same_tree
from support.everything import CAPABILITY_2
from support.trees import Append, Device, Dir, File, Link, Remove, Set, Symlink

pytestmark = pytest.mark.root

TREE = (
    Dir("d", File("f", b"x"), xattrs={"user.d": b"1"}),
    Link("l1", "d/f"),
    Symlink("s", "target"),
    Device("dev", 1, 3),
    File("capable", xattrs={"security.capability": CAPABILITY_2}),
    File("alone"),
)
CHANGES = [
    (Append("d/f", b"y", mtime=trees.T0), "content"),
    (Remove("l1"), "link gone"),
    ([Remove("l1"), File("l1", b"x")], "no link any more"),
    (Symlink("s", "other"), "target"),
    (Device("dev", 1, 5), "device"),
    (Device("dev", 1, 3, block=True), "type"),
    (Set("d", mode=0o700), "mode"),
    (Set("s", owner=(1, 0)), "owner"),
    (Set("d", xattrs={"user.d": b"2"}), "xattr"),
    (File("capable"), "capability"),
    (Set("alone", mtime=trees.T0 + 1), "nanosecond"),
    (File("more"), "one more"),
]


@pytest.mark.parametrize("change", [change for change, _ in CHANGES], ids=[name for _, name in CHANGES])
def test_same_tree_notices(change: object, tmp_path: Path) -> None:
    for name in ("a", "b"):
        trees.make(tmp_path / name, *TREE)
    same_tree(tmp_path / "a", tmp_path / "b")
    trees.make(tmp_path / "b", change)
    with pytest.raises(AssertionError, match="differ"):
        same_tree(tmp_path / "a", tmp_path / "b")


def test_what_is_left_out(tmp_path: Path) -> None:
    trees.make(tmp_path / "a", *TREE)
    trees.make(
        tmp_path / "b", *TREE, Set("alone", mtime=trees.T0 + 1), File("d/more"), Set("d", xattrs={"user.d": b"2"})
    )
    same_tree(
        tmp_path / "a",
        tmp_path / "b",
        seconds=True,
        xattrs=lambda name: name != "user.d",
        without=[b"d/more"],
        untimed=[b"d"],
    )


def test_records_are_in_the_walks_order(tmp_path: Path) -> None:
    trees.make(tmp_path, Dir("a", File("x")), File("a-b"), Link("a/y", "a/x"))
    assert [(each.name, each.type, each.target) for each in records(tmp_path)] == [
        (b"a/", "d", b""),
        (b"a/x", "-", b""),
        (b"a/y", "h", b"a/x"),
        (b"a-b", "-", b""),
    ]
