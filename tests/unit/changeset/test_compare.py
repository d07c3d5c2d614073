from __future__ import annotations

import os
import subprocess
from collections.abc import Callable

import pytest
from support.trees import T0, Device, Dir, File, Link, Remove, Rename, Set, Symlink, copy, deep, make

from streamer.changeset.compare import compare

Open = Callable[[bytes], int]
OLD = (
    Dir("a", Dir("b", File("c", "c"), File("d", "d")), File("e", "e")),
    Dir("a-b", File("f", "f")),
    File("g", "g"),
    Symlink("s", "a"),
)
SECOND = 1_700_000_000_000_000_000

CASES = {
    "nothing": ([], []),
    "added file": ([File("n")], ["A n"]),
    "added tree": ([Dir("a/n", File("x"), Dir("y", File("z")))], ["C a", "A a/n", "A a/n/x", "A a/n/y", "A a/n/y/z"]),
    "deep change": ([File("a/b/c", "changed")], ["C a", "C a/b", "C a/b/c"]),
    "removed file": ([Remove("a/b/c")], ["C a", "C a/b", "D a/b/c"]),
    "removed tree": ([Remove("a")], ["D a"]),
    "file to directory": ([Remove("g"), Dir("g", File("x"))], ["C g", "A g/x"]),
    "directory to file": ([Remove("a"), File("a")], ["C a"]),
    "mode of a directory": ([Set("a/b", mode=0o700)], ["C a", "C a/b"]),
    "owner": ([Set("g", owner=(1, 0))], ["C g"]),
    "time of a file": ([Set("g", mtime=T0 + 1)], ["C g"]),
    "time of a directory": ([Set("a", mtime=T0 + 1)], []),
    "whole seconds on one side": ([Set("g", mtime=T0 // 10**9 * 10**9)], []),
    "size": ([File("g", "gg")], ["C g"]),
    "same size and time": ([File("g", "h")], []),
    "new target": ([Remove("s"), Symlink("s", "b", mtime=T0 + 1)], ["C s"]),
    "user xattr": ([Set("g", xattrs={"user.x": b"1"})], []),
    "renamed": ([Rename("a/b", "a/z")], ["C a", "D a/b", "A a/z", "A a/z/c", "A a/z/d"]),
    "order of bytes": ([File("a/z"), File("a-b/z"), File("a0")], ["C a", "A a/z", "C a-b", "A a-b/z", "A a0"]),
}


def listed(old: int | None, new: int) -> list[str]:
    found = []
    for change in compare(old, new):
        found.append(f"{change.kind.letter} {change.path.decode()}")
        assert (change.node is None) == (change.kind.letter == "D")
        if change.node is not None:
            st = os.stat(change.node.name, dir_fd=change.node.parent, follow_symlinks=False)
            assert os.path.samestat(st, change.node.stat)
            assert change.node.path == change.path
    return found


@pytest.mark.parametrize(
    ("mutation", "expected"),
    [pytest.param(*case, id=name, marks=[pytest.mark.root] * (name == "owner")) for name, case in CASES.items()],
)
def test_what_differs(base: bytes, opened: Open, mutation: list[object], expected: list[str]) -> None:
    old = make(os.path.join(base, b"old"), *OLD)
    new = os.path.join(base, b"new")
    os.mkdir(new)
    make(copy(old, new), *mutation)
    assert listed(opened(old), opened(new)) == expected


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_devices_and_capabilities(base: bytes, opened: Open) -> None:
    capability = {"security.capability": bytes.fromhex("0100000200200000000000000000000000000000")}
    old = make(os.path.join(base, b"old"), Device("n", 250, 1), File("f"), Dir("d", File("x")))
    new = make(os.path.join(base, b"new"), Device("n", 250, 2), File("f", xattrs=capability), Dir("d", File("x")))
    assert listed(opened(old), opened(new)) == ["C f", "C n"]


def test_nothing_before_means_everything_is_new(base: bytes, opened: Open) -> None:
    new = make(os.path.join(base, b"new"), *OLD)
    assert listed(None, opened(new)) == [
        "A a",
        "A a/b",
        "A a/b/c",
        "A a/b/d",
        "A a/e",
        "A a-b",
        "A a-b/f",
        "A g",
        "A s",
    ]


def test_one_file_on_both_sides_is_not_looked_at(base: bytes, opened: Open) -> None:
    old = make(os.path.join(base, b"old"), File("same", "x"), Dir("d", File("same2")))
    new = make(os.path.join(base, b"new"), Dir("d"))
    os.link(os.path.join(old, b"same"), os.path.join(new, b"same"))
    os.link(os.path.join(old, b"d/same2"), os.path.join(new, b"d/same2"))
    assert listed(opened(old), opened(new)) == []
    assert listed(opened(old), opened(old)) == []


@pytest.mark.parametrize("change_at_the_bottom", [False, True])
def test_deep_trees(base: bytes, opened: Open, change_at_the_bottom: bool) -> None:
    """Every directory above a change is listed before it, also those whose descriptors were closed on the way."""
    depth = 300
    for name in (b"old", b"new"):
        os.mkdir(os.path.join(base, name))
        deep(os.path.join(base, name), depth, siblings=True)
        subprocess.run(["find", os.path.join(base, name), "-exec", "touch", "-d", "@5", "{}", "+"], check=True)
    bottom = os.path.join(base, b"new", *[b"d"] * depth)
    if change_at_the_bottom:
        make(bottom, File("new"))
    make(os.path.join(base, b"new"), File("z2"))
    chain = ["C " + "/".join(["d"] * n) for n in range(1, depth + 1)]
    added = "A " + "/".join(["d"] * depth + ["new"])
    assert listed(opened(os.path.join(base, b"old")), opened(os.path.join(base, b"new"))) == [
        *([*chain, added] if change_at_the_bottom else []),
        "A z2",
    ]


def test_leaving_early_closes_everything(base: bytes, opened: Open) -> None:
    old, new = (os.path.join(base, name) for name in (b"old", b"new"))
    os.mkdir(old)
    os.mkdir(new)
    deep(new, 100)
    found = compare(opened(old), opened(new))
    for _ in range(50):
        next(found)
    found.close()


def test_hard_links_within_one_side_do_not_confuse(base: bytes, opened: Open) -> None:
    old = make(os.path.join(base, b"old"), File("a", "x"), Link("b", "a"))
    new = make(os.path.join(base, b"new"), File("a", "x"), File("b", "x"))
    assert listed(opened(old), opened(new)) == []
