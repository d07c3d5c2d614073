from __future__ import annotations

import os
import stat
import subprocess
import tempfile
from collections.abc import Callable

import pytest
from support.races import exchanging
from support.trees import Device, Dir, Fifo, File, Remove, Socket, Symlink, deep, make

from streamer.changeset.change import Node
from streamer.changeset.content import blocks, open_regular, xattrs
from streamer.changeset.walk import visit, walk
from streamer.errors import InvalidRequest, NotFound, SourceChanged, SourceFailed

Open = Callable[[bytes], int]


def paths(root: int, **options: object) -> list[bytes]:
    return [node.path for node in walk(root, **options)]  # type: ignore[arg-type]


def test_order_is_depth_first_by_bytes_parents_first(base: bytes, opened: Open) -> None:
    make(
        base,
        Dir("a", File("x")),
        File("a-b"),
        File("B"),
        File(b"\xff"),
        File("é"),
        File("\ue000"),
        Dir("a0", File("y")),
    )
    assert paths(opened(base)) == [
        b"",
        b"B",
        b"a",
        b"a/x",
        b"a-b",
        b"a0",
        b"a0/y",
        "é".encode(),
        "\ue000".encode(),
        b"\xff",
    ]


@pytest.mark.root
def test_nodes_carry_what_lstat_says_and_a_descriptor_to_read_by(base: bytes, opened: Open) -> None:
    make(base, Dir("d", File("f", "hello", mode=0o640), Symlink("s", "/etc"), Fifo("p"), Device("n"), Socket("k")))
    for node in walk(opened(base)):
        assert node.name == (node.path.rpartition(b"/")[2] or b".")
        assert os.path.samestat(node.stat, os.lstat(os.path.join(base, node.path)))
        assert os.path.samestat(node.stat, os.stat(node.name, dir_fd=node.parent, follow_symlinks=False))


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        (b"etc", [b"etc", b"etc/a", b"etc/s"]),
        (b"/etc/", [b"etc", b"etc/a", b"etc/s"]),
        (b"./etc//a", [b"etc/a"]),
        (b"etc/s", [b"etc/s"]),
        (b"link/a", [b"link/a"]),
        (b"absolute/a", [b"absolute/a"]),
        (b"link", [b"link"]),
        (b".", [b"", b"absolute", b"etc", b"etc/a", b"etc/s", b"link"]),
    ],
)
def test_start_is_found_as_in_a_chroot(base: bytes, opened: Open, start: bytes, expected: list[bytes]) -> None:
    make(base, Dir("etc", File("a"), Symlink("s", "a")), Symlink("link", "etc"), Symlink("absolute", "/etc"))
    assert paths(opened(base), start=start) == expected


@pytest.mark.parametrize(
    ("start", "error"),
    [
        (b"nothing", NotFound),
        (b"etc/nothing", NotFound),
        (b"etc/a/b", NotFound),
        (b"loop/x", InvalidRequest),
        (b"../etc", InvalidRequest),
        (b"etc/..", InvalidRequest),
        (b"e\0", InvalidRequest),
    ],
)
def test_bad_starts(base: bytes, opened: Open, start: bytes, error: type[Exception]) -> None:
    make(base, Dir("etc", File("a")), Symlink("loop", "loop"))
    with pytest.raises(error):
        paths(opened(base), start=start)


class Chosen:
    def __init__(self, emitted: set[bytes], entered: set[bytes]) -> None:
        self.emitted, self.entered = emitted, entered

    def emits(self, path: bytes, is_dir: bool) -> bool:
        return path in self.emitted

    def enters(self, path: bytes) -> bool:
        return path in self.entered


def test_select_decides_what_comes_and_what_is_opened(base: bytes, opened: Open) -> None:
    make(base, Dir("a", File("x"), File("y")), Dir("b", File("z")))
    select = Chosen({b"a/x", b"b", b"b/z"}, {b"", b"a"})
    assert paths(opened(base), select=select) == [b"a/x", b"b"]


def test_other_file_systems_are_yielded_but_not_entered(base: bytes, opened: Open) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    make(base, Dir("proc", File("below")), File("z"))
    target = os.path.join(base, b"proc")
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", target], check=True)
    try:
        make(target, File("inside"))
        assert paths(opened(base)) == [b"", b"proc", b"z"]
    finally:
        subprocess.run(["umount", target], check=True)


def test_a_name_that_vanishes_is_told_and_left_out(base: bytes, opened: Open) -> None:
    make(base, File("a"), File("b"), Dir("c", File("d")), File("e"))
    vanished: list[bytes] = []
    seen = []
    for node in walk(opened(base), on_vanished=vanished.append):
        seen.append(node.path)
        if node.path == b"a":
            make(base, Remove("b"), Remove("c"))
    assert seen == [b"", b"a", b"e"]
    assert vanished == [b"b", b"c"]


def test_a_directory_removed_after_it_came_has_nothing_in_it(base: bytes, opened: Open) -> None:
    make(base, Dir("c", File("d")), File("e"))
    vanished: list[bytes] = []
    seen = []
    for node in walk(opened(base), on_vanished=vanished.append):
        seen.append(node.path)
        if node.path == b"c":
            make(base, Remove("c"))
    assert seen == [b"", b"c", b"e"]


def test_what_cannot_be_read_fails_and_names_the_path(
    base: bytes, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(base, Dir("d", File("bad\n")))
    real = os.stat

    def failing(path: bytes, **options: object) -> os.stat_result:
        if path == b"bad\n":
            raise OSError(5, "Input/output error")
        return real(path, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "stat", failing)
    with pytest.raises(SourceFailed, match=r"^could not read 'd/bad\\n': Input/output error$"):
        paths(opened(base))


@pytest.mark.parametrize("siblings", [False, True])
def test_deep_trees_take_few_descriptors(base: bytes, opened: Open, siblings: bool) -> None:
    name = b"d" * 200
    deep(base, 3000, name, siblings=siblings)
    root = opened(base)
    before = len(os.listdir("/proc/self/fd"))
    count = most = 0
    last = b""
    for node in walk(root):
        count += 1
        if count % 500 == 0:
            most = max(most, len(os.listdir("/proc/self/fd")) - before)
        if node.name == b"bottom":
            last = node.path
    assert count == 1 + 3000 * (2 if siblings else 1) + 1
    assert len(last) == 3000 * 201 + len(b"bottom")
    assert most <= 70


def test_leaving_a_walk_early_closes_everything(base: bytes, opened: Open) -> None:
    deep(base, 100)
    nodes = walk(opened(base))
    for node in nodes:
        if node.path.count(b"/") == 80:
            break
    nodes.close()


def test_a_parent_moved_away_below_the_walk_is_noticed(base: bytes, opened: Open) -> None:
    deep(base, 100, siblings=True)
    with pytest.raises(SourceChanged, match=r"moved away|another directory"):
        for node in walk(opened(base)):
            if node.name == b"bottom":
                # A directory whose descriptor was closed on the way down, with all below it, and its child elsewhere.
                os.rename(os.path.join(base, b"d/d/d"), os.path.join(base, b"elsewhere"))
                os.rename(os.path.join(base, b"elsewhere", *[b"d"] * 20), os.path.join(base, b"else2"))


def test_visit_asks_with_nodes(base: bytes, opened: Open) -> None:
    make(base, Dir("a", File("x"), mode=0o711), Dir("b", File("y")))
    entered: list[Node] = []

    def enters(node: Node) -> bool:
        entered.append(node)
        return stat.S_IMODE(node.stat.st_mode) != 0o711

    assert [n.path for n in visit(opened(base), enters=enters)] == [b"", b"a", b"b", b"b/y"]
    assert [n.path for n in entered] == [b"", b"a", b"b"]


def test_a_directory_swapped_for_a_link_never_leads_outside(base: bytes, opened: Open) -> None:
    """CVE-2018-15664, CVE-2023-0778: enumeration, stat, xattrs and content all stay inside."""
    with tempfile.TemporaryDirectory() as outside:
        make(outside, File("f", "secret", xattrs={"user.secret": b"yes"}), File("only-outside"))
        make(base, Dir("d", File("f", "public")), Symlink("s", outside), Dir("x", Symlink("f", outside + "/f")))
        root = opened(base)
        d, s, x = (os.path.join(base, name) for name in (b"d", b"s", b"x"))
        for other in (s, x):
            with exchanging(d, other):
                for _ in range(3000):
                    for node in walk(root):
                        assert node.name != b"only-outside"
                        if node.name == b"f" and stat.S_ISREG(node.stat.st_mode):
                            try:
                                assert b"user.secret" not in xattrs(node)
                                fd = open_regular(node)
                            except SourceChanged:
                                continue
                            try:
                                assert b"".join(blocks(fd, node.stat.st_size)) == b"public"
                            finally:
                                os.close(fd)
