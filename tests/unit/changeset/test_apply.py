from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support import overlays
from support.hostile import ESCAPES, Escape
from support.races import exchanging
from support.trees import T0, Device, Dir, Fifo, File, Link, Remove, Symlink, Whiteout, deep, make, snapshot

from streamer.changeset import making
from streamer.changeset.apply import Applier, Limits, Whiteouts
from streamer.changeset.layers import Layers
from streamer.errors import (
    Conflict,
    InvalidArchive,
    LimitExceeded,
    NotPermitted,
    StorageFull,
    StreamerError,
    Unsupported,
)
from streamer.tar.entry import BLOCK, CHAR, DIRECTORY, FIFO, LINK, SYMLINK, Entry
from streamer.tar.reader import Reader

Open = Callable[[bytes], int]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
ROOT = Path(__file__).parents[3]
MODES = [Whiteouts.OVERLAY, Whiteouts.DELETE]


def file(name: bytes, data: bytes = b"", **attributes: object) -> tuple[Entry, bytes]:
    entry = Entry(name, mode=0o644, size=len(data), mtime=T0)
    return replace(entry, **attributes), data  # type: ignore[arg-type]


def directory(name: bytes, mode: int = 0o755) -> tuple[Entry, None]:
    return Entry(name, DIRECTORY, mode, mtime=T0), None


def symlink(name: bytes, target: bytes) -> tuple[Entry, None]:
    return Entry(name, SYMLINK, 0o777, linkname=target, mtime=T0), None


def link(name: bytes, target: bytes) -> tuple[Entry, None]:
    return Entry(name, LINK, linkname=target), None


Archive = list[tuple[Entry, bytes | None]] | list[tuple[Entry, bytes]] | list[tuple[Entry, None]]


@pytest.fixture
def apply(base: bytes, opened: Open) -> Callable[..., Applier]:
    """Applies members to base/root and finishes."""

    def applying(archive: Archive, whiteouts: Whiteouts = Whiteouts.DELETE, **options: object) -> Applier:
        root = os.path.join(base, b"root")
        os.makedirs(root, exist_ok=True)
        with Applier(opened(root), whiteouts=whiteouts, **options) as applier:  # type: ignore[arg-type]
            for entry, content in archive:
                applier.apply(entry, content)
            applier.finish()
            return applier

    return applying


def tree(base: bytes, **options: bool) -> dict[bytes, dict[str, object]]:
    return snapshot(os.path.join(base, b"root"), **options)


@pytest.mark.parametrize("whiteouts", Whiteouts)
@needs_root
def test_every_type_with_all_its_attributes(base: bytes, apply: Callable[..., Applier], whiteouts: Whiteouts) -> None:
    os.umask(old := os.umask(0o777))
    try:
        os.umask(0o777)
        apply(
            [
                (Entry(b"d/", DIRECTORY, 0o2750, 3, 4, mtime=T0 + 1, xattrs={b"user.d": b"1"}), None),
                file(b"d/f", b"data", mode=0o4711, uid=5, gid=6, xattrs={b"trusted.f": b"\0"}),
                link(b"d/l", b"d/f"),
                symlink(b"s", b"../../outside"),
                (Entry(b"p", FIFO, 0o622, 1, 2, mtime=-5), None),
                (Entry(b"c", CHAR, 0o600, devmajor=250, devminor=70000, mtime=0), None),
                (Entry(b"b", BLOCK, 0o660, devmajor=7, devminor=1), None),
            ],
            whiteouts,
        )
    finally:
        os.umask(old)
    expected = os.path.join(base, b"expected")
    make(
        expected,
        Dir(
            "d",
            File("f", "data", mode=0o4711, owner=(5, 6), xattrs={"trusted.f": b"\0"}),
            mode=0o2750,
            owner=(3, 4),
            mtime=T0 + 1,
            xattrs={"user.d": b"1"},
        ),
        Link("d/l", "d/f"),
        Symlink("s", "../../outside"),
        Fifo("p", mode=0o622, owner=(1, 2), mtime=-5),
        Device("c", 250, 70000, mode=0o600, mtime=0),
        Device("b", 7, 1, block=True, mode=0o660, mtime=0),
    )
    assert tree(base) == snapshot(expected)


def test_where_contents_went(base: bytes, opened: Open) -> None:
    root = make(os.path.join(base, b"root"), Dir("real"))
    with Applier(opened(root), whiteouts=Whiteouts.DELETE, owner=False) as applier:
        assert applier.apply(*file(b"./a//b/../c", b"x")) == b"a/c"
        assert applier.apply(*symlink(b"s", b"/real")) == b"s"
        assert applier.apply(*file(b"s/f", b"y")) == b"real/f"
        assert applier.apply(*directory(b"s/d/")) == b"real/d"
        assert applier.apply(*directory(b"./")) is None


@needs_root
@pytest.mark.parametrize("whiteouts", MODES)
def test_implied_directories(base: bytes, apply: Callable[..., Applier], whiteouts: Whiteouts) -> None:
    apply([file(b"a/b/c", b"x")], whiteouts)
    one = tree(base)
    assert (one[b"a"]["mode"], one[b"a"]["mtime"], one[b"a/b"]["mode"]) == ("0o755", T0, "0o755")


@needs_root
def test_implied_directories_are_like_those_below(base: bytes, opened: Open, apply: Callable[..., Applier]) -> None:
    lower = make(
        os.path.join(base, b"lower"),
        Dir("a", Dir("b", mode=0o700, owner=(7, 8)), mode=0o1777, mtime=T0 + 9, xattrs={"user.a": b"x"}),
        Symlink("var", "a"),
        Symlink("abs", "/a/b"),
        Symlink("up", "a/b/../../a"),
    )
    with Layers([opened(lower)]) as layers:
        apply(
            [file(b"var/b/f"), file(b"abs/g"), file(b"up/h"), file(b"a/.wh.x")],
            Whiteouts.OVERLAY,
            lower=layers,
        )
    one = tree(base)
    assert sorted(one) == [b"a", b"a/b", b"a/b/f", b"a/b/g", b"a/h", b"a/x"]
    below = snapshot(lower)
    assert {k: one[k] for k in (b"a", b"a/b")} == {k: below[k] for k in (b"a", b"a/b")}
    assert one[b"a/x"]["device"] == (0, 0)


def test_a_link_of_a_lower_layer_that_this_one_replaces(
    base: bytes, opened: Open, apply: Callable[..., Applier]
) -> None:
    lower = make(os.path.join(base, b"lower"), Dir("run"), Dir("var", Symlink("run", "/run")))
    with Layers([opened(lower)]) as layers:
        apply(
            [file(b"var/run/a"), directory(b"var/run/"), file(b"var/run/b")],
            Whiteouts.OVERLAY,
            lower=layers,
            owner=False,
        )
    assert sorted(tree(base)) == [b"run", b"run/a", b"var", b"var/run", b"var/run/b"]


REPLACED = {
    "file by file": [file(b"x", b"1"), file(b"x", b"22")],
    "file by directory": [file(b"x", b"1"), directory(b"x/"), file(b"x/y")],
    "directory by file": [directory(b"x/"), file(b"x/y"), file(b"x", b"1")],
    "directory by directory": [directory(b"x/", 0o700), file(b"x/y"), directory(b"x/", 0o711)],
    "link by directory": [directory(b"z/"), symlink(b"x", b"z"), directory(b"x/"), file(b"x/y")],
    "directory by link": [directory(b"x/"), file(b"x/y"), symlink(b"x", b"z")],
    "file by link to itself": [file(b"x", b"1"), link(b"x", b"x")],
    "name by link": [file(b"x", b"1"), file(b"y", b"2"), link(b"y", b"x")],
    "through replaced parents": [file(b"a/b/c/f"), symlink(b"a", b"z"), file(b"a/b/c/f")],
}  # fmt: skip
EXPECTED = {
    "file by file": {b"x": b"22"},
    "file by directory": {b"x": None, b"x/y": b""},
    "directory by file": {b"x": b"1"},
    "directory by directory": {b"x": None, b"x/y": b""},
    "link by directory": {b"z": None, b"x": None, b"x/y": b""},
    "directory by link": {b"x": None},
    "file by link to itself": {b"x": b"1"},
    "name by link": {b"x": b"1", b"y": b"1"},
    "through replaced parents": {b"a": None, b"z": None, b"z/b": None, b"z/b/c": None, b"z/b/c/f": b""},
}


@pytest.mark.parametrize("whiteouts", Whiteouts)
@pytest.mark.parametrize("case", REPLACED)
def test_the_later_member_counts(base: bytes, apply: Callable[..., Applier], whiteouts: Whiteouts, case: str) -> None:
    replaced: list[bytes] = []
    apply(REPLACED[case], whiteouts, on_replaced=replaced.append, owner=False)
    assert {path: one.get("content") for path, one in tree(base).items()} == EXPECTED[case]
    wanted = {
        "file by file": [b"x"],
        "file by directory": [b"x"],
        "directory by file": [b"x/y"],
        "directory by link": [b"x/y"],
        "name by link": [b"y"],
        "through replaced parents": [b"a/b/c/f"],
    }
    assert replaced == wanted.get(case, [])


def test_what_was_there_before_is_no_loss_to_the_archive(base: bytes, apply: Callable[..., Applier]) -> None:
    make(os.path.join(base, b"root"), File("old", "x"), Dir("d", File("old")))
    replaced: list[bytes] = []
    apply([file(b"old", b"y"), file(b"d")], on_replaced=replaced.append, owner=False)
    assert replaced == []


BEFORE = (Dir("d", File("a"), Dir("s", File("b"), File("c"))), File("f"))
DELETIONS = [
    ([file(b".wh.f")], {b"d", b"d/a", b"d/s", b"d/s/b", b"d/s/c"}),
    ([file(b"d/.wh.s")], {b"d", b"d/a", b"f"}),
    ([file(b".wh.nothing")], {b"d", b"d/a", b"d/s", b"d/s/b", b"d/s/c", b"f"}),
    ([file(b"d/.wh..wh..opq")], {b"d", b"f"}),
    ([file(b"d/n"), file(b"d/.wh..wh..opq")], {b"d", b"d/n", b"f"}),
    ([file(b"d/.wh..wh..opq"), file(b"d/n")], {b"d", b"d/n", b"f"}),
    ([file(b"d/s/n"), file(b"d/.wh..wh..opq")], {b"d", b"d/s", b"d/s/n", b"f"}),
    ([file(b"d/s/n"), file(b"d/.wh.s")], {b"d", b"d/a", b"d/s", b"d/s/n", b"f"}),
    ([file(b"d/.wh.s"), file(b"d/s/n")], {b"d", b"d/a", b"d/s", b"d/s/n", b"f"}),
    ([file(b"d/.wh.s"), directory(b"d/s"), file(b"d/s/n")], {b"d", b"d/a", b"d/s", b"d/s/n", b"f"}),
    ([file(b"f", b"new"), file(b".wh.f")], {b"d", b"d/a", b"d/s", b"d/s/b", b"d/s/c", b"f"}),
    ([file(b".wh.d"), file(b"d", b"now a file")], {b"d", b"f"}),
    ([file(b".wh.d"), symlink(b"d", b"f")], {b"d", b"f"}),
    ([file(b".wh.f"), file(b".wh.f")], {b"d", b"d/a", b"d/s", b"d/s/b", b"d/s/c"}),
    ([(replace(file(b".wh.d/")[0], type=DIRECTORY), None)], {b"f"}),
]


@needs_root
@pytest.mark.root
@pytest.mark.parametrize(
    ("archive", "expected"), DELETIONS, ids=lambda v: str(sorted(v) if isinstance(v, set) else v)[:50]
)
def test_deletions_are_the_same_by_deleting_and_by_marks(
    base: bytes, opened: Open, archive: Archive, expected: set[bytes]
) -> None:
    overlays.require()
    plain = make(os.path.join(base, b"plain"), *BEFORE)
    lower = make(os.path.join(base, b"lower"), *BEFORE)
    layer = make(os.path.join(base, b"layer"))
    with Layers([opened(lower)]) as layers:
        for root, whiteouts, below in ((plain, Whiteouts.DELETE, None), (layer, Whiteouts.OVERLAY, layers)):
            with Applier(opened(root), whiteouts=whiteouts, lower=below) as applier:
                for entry, content in archive:
                    applier.apply(entry, content)
                applier.finish()
    assert set(snapshot(plain)) == expected
    with overlays.mounted([layer, lower]) as merged:
        assert set(snapshot(merged)) == expected
        assert snapshot(merged, mtimes=False) == snapshot(plain, mtimes=False)


def test_user_marks_need_no_privilege_to_be_read(base: bytes, apply: Callable[..., Applier]) -> None:
    apply([file(b"d/.wh..wh..opq"), file(b"d/f")], Whiteouts.OVERLAY, userxattr=True, owner=False)
    assert tree(base, marks=True)[b"d"]["xattrs"] == {"user.overlay.opaque": b"y"}


def test_plain_trees_have_no_whiteouts(base: bytes, apply: Callable[..., Applier]) -> None:
    apply([file(b".wh.f", b"x"), file(b".wh..wh..opq"), file(b".wh.d/f")], Whiteouts.PLAIN, owner=False)
    assert set(tree(base)) == {b".wh.f", b".wh..wh..opq", b".wh.d", b".wh.d/f"}


def test_aufs_metadata_is_left_out(base: bytes, apply: Callable[..., Applier]) -> None:
    applier = apply(
        [directory(b".wh..wh.plnk/"), file(b".wh..wh.plnk/1.2"), file(b"d/.wh..wh.orph"), file(b"f")], owner=False
    )
    assert set(tree(base)) == {b"f"}
    assert applier.skipped == {"aufs metadata": 3}


@needs_root
def test_overlay_marks_in_an_archive_do_not_become_marks(base: bytes, apply: Callable[..., Applier]) -> None:
    marks = {b"trusted.overlay.redirect": b"/etc", b"user.overlay.opaque": b"y", b"user.x": b"1"}
    archive = [(replace(directory(b"d/")[0], xattrs=marks), None), file(b"f", xattrs=marks)]
    apply(archive, Whiteouts.OVERLAY)
    escaped = {"trusted.overlay.overlay.redirect": b"/etc", "user.overlay.overlay.opaque": b"y", "user.x": b"1"}
    assert [one["xattrs"] for one in tree(base, marks=True).values()] == [escaped, escaped]
    make(os.path.join(base, b"root"), Remove("d"), Remove("f"))
    applier = apply(archive, Whiteouts.DELETE)
    assert [one["xattrs"] for one in tree(base, marks=True).values()] == [{"user.x": b"1"}] * 2
    assert applier.skipped == {"overlay mark": 4}


def test_a_directory_over_a_directory_replaces_its_attributes(base: bytes, apply: Callable[..., Applier]) -> None:
    make(os.path.join(base, b"root"), Dir("d", File("f"), mode=0o700, xattrs={"user.old": b"1", "user.both": b"1"}))
    apply([(replace(directory(b"d/")[0], xattrs={b"user.both": b"2"}), None)], owner=False)
    one = tree(base)
    assert one[b"d"]["xattrs"] == {"user.both": b"2"}
    assert one[b"d"]["mode"] == "0o755"
    assert b"d/f" in one


def test_an_ordinary_users_tree(base: bytes, apply: Callable[..., Applier]) -> None:
    applier = apply(
        [
            directory(b"d/", 0o000),
            file(b"d/f", b"x", mode=0o000, uid=1 << 31),
            (Entry(b"dev/null", CHAR, 0o666, devmajor=1, devminor=3), None),
            (Entry(b"p", FIFO, 0o600), None),
        ],
        Whiteouts.OVERLAY,
        owner=False,
        userxattr=True,
    )
    one = tree(base)
    assert (one[b"d"]["mode"], one[b"d/f"]["mode"]) == ("0o700", "0o400")
    assert one[b"d/f"]["owner"] == (os.geteuid(), os.getegid())
    assert applier.skipped == {"device": 1}
    assert b"dev/null" not in one


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes an ordinary user")
def test_as_an_ordinary_user(tmp_path: Path, opened: Open) -> None:
    """Without any privilege whiteouts, opaque marks and modes work; owners ask for root."""
    program = """
import ctypes, os, sys
from streamer.changeset.apply import Applier, Whiteouts
from streamer.errors import NotPermitted
from streamer.tar.entry import Entry
root = int(sys.argv[1])
cap = bytes.fromhex("0100000200200000000000000000000000000000")
os.setgroups([]); os.setgid(65534); os.setuid(65534)
ctypes.CDLL(None).prctl(4, 1)  # PR_SET_DUMPABLE, or /proc/self/fd would still be root's
with Applier(root, whiteouts=Whiteouts.OVERLAY, owner=False, userxattr=True) as applier:
    applier.apply(Entry(b"d/.wh.x"))
    applier.apply(Entry(b"d/.wh..wh..opq"))
    applier.apply(Entry(b"f", mode=0, size=1, uid=5), b"x")
    applier.apply(Entry(b"f", mode=0, size=1, xattrs={b"security.capability": cap, b"trusted.y": b""}), b"x")
    applier.finish()
    print(sorted(applier.skipped.items()))
with Applier(root, whiteouts=Whiteouts.OVERLAY) as applier:
    try:
        applier.apply(Entry(b"g", uid=5))
    except NotPermitted as error:
        print(error)
"""
    os.chmod(tmp_path, 0o777)
    fd = opened(os.fsencode(tmp_path))
    os.set_inheritable(fd, True)
    result = subprocess.run(
        [sys.executable, "-c", program, str(fd)], capture_output=True, text=True, pass_fds=[fd], cwd=ROOT
    )
    assert result.stderr == ""
    assert result.stdout.splitlines() == [
        "[('extended attribute', 2)]",
        "could not make 'g' with its owner, mode or type: root is needed",
    ]
    one = snapshot(tmp_path, marks=True)
    assert one[b"d/x"]["device"] == (0, 0)
    assert one[b"d"]["xattrs"] == {"user.overlay.opaque": b"y"}


def test_sparse_members_are_stored_sparsely(base: bytes, apply: Callable[..., Applier]) -> None:
    size = 1 << 32
    blocks = iter([b"ab", b"cde", b"", b"f"])
    entry = Entry(b"s", mode=0o644, size=size, sparse=((0, 3), (1 << 20, 0), (1 << 31, 3)), mtime=T0)
    apply([(entry, blocks)], owner=False)
    path = os.path.join(base, b"root/s")
    assert os.stat(path).st_size == size
    assert os.stat(path).st_blocks * 512 < 1 << 20
    with open(path, "rb") as stored:
        assert stored.read(4) == b"abc\0"
        stored.seek(1 << 31)
        assert stored.read(4) == b"def\0"


def test_contents_come_in_blocks_and_are_closed(base: bytes, opened: Open) -> None:
    closed = []

    def content(blocks: list[bytes]) -> Iterator[bytes]:
        try:
            yield from blocks
        finally:
            closed.append(True)

    root = make(os.path.join(base, b"root"))
    with Applier(opened(root), whiteouts=Whiteouts.DELETE, owner=False) as applier:
        applier.apply(Entry(b"f", size=6), content([b"ab", b"", b"cdef"]))
        for bad in ([b"ab", b"cdefg"], [b"abc"], []):
            with pytest.raises(InvalidArchive, match=r"'g' has (more|less) content than its header says"):
                applier.apply(Entry(b"g", size=6), content(bad))
        with pytest.raises(InvalidArchive):
            applier.apply(Entry(b"../g", size=6), (b"x" for _ in range(1)))
    assert len(closed) == 4
    assert snapshot(root)[b"f"]["content"] == b"abcdef"


BAD = [
    (file(b".."), InvalidArchive),
    (file(b"../f"), InvalidArchive),
    (file(b"/../f"), InvalidArchive),
    (file(b"a/../../f"), InvalidArchive),
    (file(b"."), InvalidArchive),
    (file(b""), InvalidArchive),
    (file(b"a\0b"), InvalidArchive),
    (file(b"x" * 256), InvalidArchive),
    (file(b".wh."), InvalidArchive),
    (file(b".wh.."), InvalidArchive),
    (file(b"d/.wh..."), InvalidArchive),
    (file(b".wh.d/f"), InvalidArchive),
    (file(b"file/f"), InvalidArchive),
    (file(b"fifo/f"), InvalidArchive),
    (file(b"loop/f"), InvalidArchive),
    (file(b"out/f"), InvalidArchive),
    (link(b"l", b"nothing"), InvalidArchive),
    (link(b"l", b"../x"), InvalidArchive),
    (link(b"l", b""), InvalidArchive),
    (link(b"l", b"d"), InvalidArchive),
    (link(b"l", b"d/nothing/x"), InvalidArchive),
    (link(b"l", b"out/x"), InvalidArchive),
    (symlink(b"s", b""), InvalidArchive),
    (symlink(b"s", b"a\0b"), InvalidArchive),
    (symlink(b"s", b"x" * 5000), InvalidArchive),
    ((Entry(b"u", b"V"), None), InvalidArchive),
    ((Entry(b"c", CHAR), None), InvalidArchive),
    ((Entry(b"c", CHAR, devmajor=1 << 40), None), StreamerError),
    ((Entry(b"f", uid=-1), None), InvalidArchive),
    ((Entry(b"f", gid=(1 << 32) - 1), None), InvalidArchive),
    ((Entry(b"f", size=4, sparse=((2, 1), (0, 1))), b"xy"), InvalidArchive),
    ((Entry(b"f", size=4, sparse=((3, 2),)), b"xy"), InvalidArchive),
    ((Entry(b"f", size=4, sparse=((0, -1),)), b""), InvalidArchive),
    ((Entry(b"f", size=1 << 62, sparse=()), b""), InvalidArchive),
]


@needs_root
@pytest.mark.parametrize("whiteouts", MODES)
@pytest.mark.parametrize(("member", "error"), BAD, ids=lambda v: str(v)[:60])
def test_bad_members(
    base: bytes,
    apply: Callable[..., Applier],
    whiteouts: Whiteouts,
    member: tuple[Entry, bytes | None],
    error: type[StreamerError],
) -> None:
    before = [
        file(b"file"),
        directory(b"d/"),
        symlink(b"loop", b"loop"),
        symlink(b"out", b"../.."),
        (Entry(b"fifo", FIFO), None),
    ]
    with pytest.raises(error) as caught:
        apply([*before, member], whiteouts)
    assert "member" in caught.value.details
    assert "Traceback" not in str(caught.value)
    assert os.listdir(base) == [b"root"]


def test_a_link_to_what_this_layer_deleted(apply: Callable[..., Applier]) -> None:
    with pytest.raises(InvalidArchive, match="no earlier member"):
        apply([file(b".wh.f"), link(b"l", b"f")], Whiteouts.OVERLAY, owner=False)


def test_the_roots_own_entry_is_left_alone(base: bytes, apply: Callable[..., Applier]) -> None:
    apply([(Entry(b"./", DIRECTORY, 0o000, 1, 1), None), file(b"f")], owner=False)
    assert set(tree(base)) == {b"f"}


def test_hiding_all_of_the_root(base: bytes, opened: Open, apply: Callable[..., Applier]) -> None:
    make(os.path.join(base, b"root"), File("old"))
    apply([file(b"new"), file(b".wh..wh..opq")], owner=False)
    assert set(tree(base)) == {b"new"}
    lower = opened(make(os.path.join(base, b"lower"), File("old")))
    with Layers([lower]) as layers, pytest.raises(Unsupported):
        apply([file(b".wh..wh..opq")], Whiteouts.OVERLAY, lower=layers, owner=False)


LIMITS = [
    (Limits(entries=1), [file(b"a"), file(b"b")]),
    (Limits(size=5), [file(b"a", b"123"), file(b"b", b"456")]),
    (Limits(size=5), [(Entry(b"s", size=6, sparse=()), b"")]),
    (Limits(path=10), [file(b"x" * 11)]),
    (Limits(depth=3), [file(b"a/b/c/d")]),
]


@pytest.mark.parametrize(("limits", "archive"), LIMITS)
def test_limits(apply: Callable[..., Applier], limits: Limits, archive: Archive) -> None:
    with pytest.raises(LimitExceeded, match=r"\d"):
        apply(archive, limits=limits, owner=False)


@pytest.mark.parametrize(
    ("number", "error"),
    [
        (errno.ENOSPC, StorageFull),
        (errno.EDQUOT, StorageFull),
        (errno.EACCES, NotPermitted),
        (errno.ENAMETOOLONG, InvalidArchive),
        (errno.EEXIST, Conflict),
        (errno.EIO, StreamerError),
    ],
)
def test_what_the_kernel_refuses(
    apply: Callable[..., Applier], monkeypatch: pytest.MonkeyPatch, number: int, error: type[StreamerError]
) -> None:
    def refusing(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(making.os, "pwrite", refusing)
    with pytest.raises(error) as caught:
        apply([file(b"f", b"x")], owner=False)
    assert caught.value.details["member"] == "f"


@needs_root
def test_a_full_disk(opened: Open) -> None:
    with tempfile.TemporaryDirectory() as target:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", target], check=True)
        try:
            root = os.open(target, os.O_RDONLY)
            with Applier(root, whiteouts=Whiteouts.DELETE) as applier, pytest.raises(StorageFull, match="'big'"):
                applier.apply(*file(b"big", bytes(1 << 21)))
            os.close(root)
        finally:
            subprocess.run(["umount", target], check=True)


def test_deep_and_wide(base: bytes, apply: Callable[..., Applier]) -> None:
    name = b"d" * 200
    archive: list[tuple[Entry, bytes | None]] = [directory(b"/".join([name] * n)) for n in range(1, 400)]
    archive += [file(b"/".join([name] * 300 + [b"f"]), b"x"), file(b"/".join([name] * 2 + [b"g"]), b"y")]
    archive += [file(b"many%d/f" % n) for n in range(200)]
    before = len(os.listdir("/proc/self/fd"))
    applier = apply(archive, Whiteouts.OVERLAY, owner=False)
    assert not applier.skipped
    assert len(os.listdir("/proc/self/fd")) - before <= 2
    assert len(os.listdir(os.path.join(base, b"root"))) == 201


def test_deep_trees_are_removed(base: bytes, apply: Callable[..., Applier]) -> None:
    root = make(os.path.join(base, b"root"), Dir("d"))
    deep(os.path.join(root, b"d"), 2000, b"e" * 100, siblings=True)
    apply([file(b"d", b"x")], owner=False)
    assert tree(base)[b"d"]["content"] == b"x"


@needs_root
def test_whiteouts_of_a_lower_layer_are_respected(base: bytes, opened: Open, apply: Callable[..., Applier]) -> None:
    """A parent that a middle layer deleted is new, not like the one further down."""
    bottom = make(os.path.join(base, b"0"), Dir("d", mode=0o700))
    middle = make(os.path.join(base, b"1"), Whiteout("d"))
    with Layers([opened(middle), opened(bottom)]) as layers:
        apply([file(b"d/f")], Whiteouts.OVERLAY, lower=layers)
    assert tree(base)[b"d"]["mode"] == "0o755"


def hostile(data: bytes) -> Iterator[tuple[Entry, Iterator[bytes]]]:
    reader = Reader(io.BytesIO(data))
    for entry in reader:
        yield entry, reader.content()


@needs_root
@pytest.mark.parametrize("whiteouts", Whiteouts)
@pytest.mark.parametrize("escape", ESCAPES, ids=lambda e: e.id)
def test_nothing_escapes(base: bytes, opened: Open, whiteouts: Whiteouts, escape: Escape) -> None:
    outside = make(os.path.join(base, b"outside"), File("secret", "s"), Dir("d", mode=0o750))
    root = make(os.path.join(base, b"root"))
    before = snapshot(base)
    with Applier(opened(root), whiteouts=whiteouts) as applier:
        try:
            for entry, content in hostile(escape.data):
                applier.apply(entry, content)
            applier.finish()
        except StreamerError:
            pass
    after = {path: one for path, one in snapshot(base).items() if not path.startswith(b"root")}
    assert after == {path: one for path, one in before.items() if not path.startswith(b"root")}
    assert os.stat(outside).st_nlink == 3


@needs_root
@pytest.mark.parametrize("whiteouts", MODES)
def test_a_race_never_leads_outside(base: bytes, opened: Open, whiteouts: Whiteouts) -> None:
    outside = make(os.path.join(base, b"outside"), File("f", "secret", mode=0o600), Dir("d", mode=0o700))
    make(outside, Dir("x", File("f", "secret")))
    before = snapshot(outside)
    root = make(os.path.join(base, b"root"), Dir("a", Dir("d")), Symlink("s", outside))
    held = opened(root)
    members = [
        file(b"a/d/f", b"new", mode=0o666),
        directory(b"a/d/d/", 0o777),
        file(b"a/d/d/g", b"y"),
        link(b"a/d/l", b"a/d/f"),
        file(b"a/d/.wh.x"),
        symlink(b"a/d/t", b"q"),
        (Entry(b"a/d/p", FIFO, 0o600), None),
        file(b"a/d/.wh..wh..opq"),
        file(b"a/d/x/f"),
    ]
    done = 0
    with exchanging(os.path.join(root, b"a/d"), os.path.join(root, b"s")):
        for _ in range(400):
            with Applier(held, whiteouts=whiteouts) as applier:
                for entry, content in members:
                    try:
                        applier.apply(entry, content)
                        done += 1
                    except StreamerError:
                        continue
                applier.finish()
    assert done > 100
    assert snapshot(outside) == before
