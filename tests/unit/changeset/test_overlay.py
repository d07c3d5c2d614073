from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from support import overlays
from support.trees import (
    Append,
    Dir,
    File,
    Link,
    Opaque,
    Remove,
    Rename,
    Set,
    Symlink,
    Whiteout,
    make,
    snapshot,
)

from streamer.changeset import overlay
from streamer.changeset.change import Change, Kind, Node
from streamer.changeset.content import blocks, open_regular, xattrs
from streamer.changeset.layers import Layers
from streamer.changeset.marks import Marks
from streamer.changeset.overlay import changes
from streamer.errors import SourceChanged, Unsupported

pytestmark = pytest.mark.root

Open = Callable[[bytes], int]
FULL = "index=off,redirect_dir=on,metacopy=on"
LOWER = (
    Dir("etc", File("passwd", "root"), File("group", "g"), Symlink("mtab", "x")),
    Dir("usr", Dir("lib", File("libc", "c" * 50)), File("bin", "b")),
    File("top", "t"),
)


@pytest.fixture(autouse=True)
def _needs_overlays() -> None:
    overlays.require()


def listed(found: list[Change]) -> list[str]:
    return [f"{c.kind.letter}{'!' * c.opaque} {c.path.decode()}" for c in found]


def below(base: bytes, name: bytes) -> bytes:
    path = os.path.join(base, name)
    os.mkdir(path)
    return path


MUTATIONS = [
    ([File("new")], ["A new"]),
    ([Append("etc/passwd", "more")], ["C etc", "C etc/passwd"]),
    ([Set("etc", mode=0o700)], ["C etc"]),
    ([Remove("top")], ["D top"]),
    ([Remove("etc/group"), File("etc/group")], ["C etc", "C etc/group"]),
    ([Remove("etc")], ["D etc"]),
    ([Remove("etc"), Dir("etc", File("only"))], ["C! etc", "A etc/only"]),
    ([Remove("etc"), File("etc")], ["C etc"]),
    ([Remove("top"), Dir("top", File("x"))], ["C! top", "A top/x"]),
    ([Dir("a", Dir("b", File("c"))), Link("a/l", "a/b/c")], ["A a", "A a/b", "A a/b/c", "A a/l"]),
]


@pytest.mark.parametrize(("mutation", "expected"), MUTATIONS, ids=lambda v: " ".join(map(str, v))[:30])
@pytest.mark.parametrize("known", [True, False])
def test_what_a_container_did(
    base: bytes, opened: Open, mutation: list[object], expected: list[str], known: bool
) -> None:
    lower, upper = make(below(base, b"l"), *LOWER), below(base, b"u")
    with overlays.mounted([lower], upper) as merged:
        make(merged, *mutation)
    if known:
        with Layers([opened(lower)]) as layers:
            assert listed(list(changes(opened(upper), parent=layers, merged=None))) == expected
    else:
        unknown = [line.replace("A", "C", 1) if line.startswith("A") else line for line in expected]
        assert listed(list(changes(opened(upper), parent=None, merged=None))) == unknown


def test_a_whiteout_comes_as_its_own_node_links_or_not(base: bytes, opened: Open) -> None:
    lower, upper = make(below(base, b"l"), *LOWER), below(base, b"u")
    with overlays.mounted([lower], upper) as merged:
        make(merged, Remove("top"), Remove("usr/bin"), Remove("usr/lib/libc"))
    found = [c for c in changes(opened(upper), parent=None, merged=None) if c.kind is Kind.DELETE]
    assert [c.path for c in found] == [b"top", b"usr/bin", b"usr/lib/libc"]
    assert all(c.node is not None and c.node.stat.st_rdev == 0 for c in found)
    assert any(c.node is not None and c.node.stat.st_nlink > 1 for c in found)


@pytest.mark.parametrize("userxattr", [False, True])
def test_marks_made_by_hand(base: bytes, opened: Open, userxattr: bool) -> None:
    prefix = "user" if userxattr else "trusted"
    upper = make(
        below(base, b"u"),
        Whiteout("gone"),
        Opaque("o", userxattr=userxattr),
        File("o/kept"),
        Dir("x", File("gone", xattrs={f"{prefix}.overlay.whiteout": b""}), File("empty"), File("data", "d")),
        Dir("not", File("gone", xattrs={f"{prefix}.overlay.whiteout": b""})),
        Opaque("other", userxattr=not userxattr),
    )
    os.setxattr(os.path.join(upper, b"x"), f"{prefix}.overlay.opaque", b"x")
    found = list(changes(opened(upper), parent=None, merged=None, userxattr=userxattr))
    assert listed(found) == [
        "D gone",
        "C not",
        "C not/gone",
        "C! o",
        "C o/kept",
        "C other",
        "C x",
        "C x/data",
        "C x/empty",
        "D x/gone",
    ]
    lower = opened(make(below(base, b"l"), File("gone"), Dir("x", File("gone")), Dir("o", File("z"))))
    with Layers([opened(upper), lower], userxattr) as layers:
        assert layers.lookup(b"gone") is None
        assert layers.lookup(b"x/gone") is None
        assert layers.lookup(b"o/z") is None
        assert layers.lookup(b"not/gone") is not None


def read(change: Change) -> bytes:
    assert change.node is not None
    fd = open_regular(change.node)
    try:
        return b"".join(blocks(fd, change.node.stat.st_size))
    finally:
        os.close(fd)


def test_metacopy_files_are_read_through_the_merged_tree(base: bytes, opened: Open) -> None:
    lower, upper = make(below(base, b"l"), *LOWER), below(base, b"u")
    with overlays.mounted([lower], upper, options=FULL) as merged:
        make(merged, Set("usr/lib/libc", mode=0o600), Set("top", mode=0o600), Set("usr/bin", owner=(5, 5)))
    with overlays.mounted([upper, lower], options=FULL) as merged:
        root = os.open(merged, os.O_RDONLY)
        got = {
            c.path: (read(c), xattrs(c.node))
            for c in changes(opened(upper), parent=None, merged=root)
            if c.path in (b"usr/lib/libc", b"top", b"usr/bin") and c.node
        }
        os.close(root)
    assert got == {b"usr/lib/libc": (b"c" * 50, {}), b"top": (b"t", {}), b"usr/bin": (b"b", {})}
    with pytest.raises(Unsupported, match=r"'top' has its data in a lower layer"):
        list(changes(opened(upper), parent=None, merged=None))
    with Layers([opened(upper)]) as layers:
        found = layers.lookup(b"top")
        assert found is not None
        with pytest.raises(Unsupported, match="metacopy"):
            found.open()


def test_a_renamed_directory_comes_whole_from_the_merged_tree(base: bytes, opened: Open) -> None:
    lower, upper = make(below(base, b"l"), *LOWER), below(base, b"u")
    with overlays.mounted([lower], upper, options=FULL) as merged:
        make(merged, Rename("usr", "moved"), Remove("moved/bin"), File("moved/lib/new"), Append("moved/lib/libc", "+"))
    with overlays.mounted([upper, lower], options=FULL) as merged:
        root = os.open(merged, os.O_RDONLY)
        with Layers([opened(lower)]) as layers:
            found = list(changes(opened(upper), parent=layers, merged=root))
        os.close(root)
    assert listed(found) == ["A moved", "A moved/lib", "A moved/lib/libc", "A moved/lib/new", "D usr"]
    with pytest.raises(Unsupported, match=r"'moved' was renamed \(redirect_dir\)"):
        list(changes(opened(upper), parent=None, merged=None))
    with Layers([opened(upper), opened(lower)]) as layers:
        libc = layers.lookup(b"moved/lib/libc")
        assert libc is not None and libc.layer == 0
        assert layers.lookup(b"moved/bin") is None


def test_a_directory_renamed_over_another_hides_it(base: bytes, opened: Open) -> None:
    lower, upper = make(below(base, b"l"), *LOWER), below(base, b"u")
    with overlays.mounted([lower], upper, options=FULL) as merged:
        make(merged, Remove("etc"), Rename("usr", "etc"))
        wanted = list(snapshot(merged))
    with overlays.mounted([upper, lower], options=FULL) as merged:
        root = os.open(merged, os.O_RDONLY)
        with Layers([opened(lower)]) as layers:
            found = list(changes(opened(upper), parent=layers, merged=root))
        os.close(root)
    assert listed(found)[0] == "C! etc"
    assert {c.path for c in found} - {b"usr"} == set(wanted) - {b"top"}


def test_links_are_told_across_a_renamed_directory(base: bytes, opened: Open) -> None:
    """All names of a file must show the same device and inode, whichever view they were met in."""
    lower, upper = make(below(base, b"l"), *LOWER), below(base, b"u")
    with overlays.mounted([lower], upper, options=FULL) as merged:
        make(merged, Rename("usr", "moved"), File("moved/lib/one", "1"), Link("outside", "moved/lib/one"))
    with overlays.mounted([upper, lower], options=FULL) as merged:
        root = os.open(merged, os.O_RDONLY)
        found = {
            c.path: (c.node.stat.st_dev, c.node.stat.st_ino)
            for c in changes(opened(upper), parent=None, merged=root)
            if c.node
        }
        os.close(root)
    assert found[b"outside"] == found[b"moved/lib/one"]


@pytest.mark.parametrize(
    ("before", "instead", "expected", "vanished"),
    [
        ([File("f"), Link("g", "f")], None, ["C g"], [b"f"]),
        ([File("f", "x", xattrs={"trusted.overlay.metacopy": b""})], None, [], [b"f"]),
        ([File("f"), Link("g", "f")], Whiteout("f"), ["D f", "C g"], []),
        ([File("f"), Link("g", "f")], File("f", "new"), ["C f", "C g"], []),
    ],
    ids=["removed", "metacopy removed", "deleted", "replaced"],
)
def test_what_is_gone_before_its_turn(
    base: bytes,
    opened: Open,
    monkeypatch: pytest.MonkeyPatch,
    before: list[object],
    instead: object,
    expected: list[str],
    vanished: list[bytes],
) -> None:
    """Between the look at the upper and that at the merged mount, which goes on saying that there is nothing."""
    upper, merged = make(below(base, b"u"), *before), opened(below(base, b"m"))
    opening = overlay.open_below

    def late(*given: object) -> int:
        monkeypatch.setattr(overlay, "open_below", opening)
        os.unlink(os.path.join(upper, b"f"))
        if instead is not None:
            make(upper, instead)
        return opening(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(overlay, "open_below", late)
    gone: list[bytes] = []
    found = list(changes(opened(upper), parent=None, merged=merged, on_vanished=gone.append))
    assert (listed(found), gone) == (expected, vanished)


def test_without_anybody_to_tell_it_is_an_error(base: bytes, opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    upper, merged = make(below(base, b"u"), File("f"), Link("g", "f")), opened(below(base, b"m"))
    opening = overlay.open_below
    monkeypatch.setattr(overlay, "open_below", lambda *a: os.unlink(os.path.join(upper, b"f")) or opening(*a))
    with pytest.raises(SourceChanged, match="'f'"):
        list(changes(opened(upper), parent=None, merged=merged))


def test_a_directory_that_is_removed_while_its_marks_are_read(
    base: bytes, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    upper = make(below(base, b"u"), Dir("d", File("f")), File("e"))

    def late(marks: Marks, node: Node) -> bytes | None:
        monkeypatch.undo()
        make(upper, Remove("d"))
        return marks.redirect(node)

    monkeypatch.setattr(Marks, "redirect", late)
    gone: list[bytes] = []
    assert listed(list(changes(opened(upper), parent=None, merged=None, on_vanished=gone.append))) == ["C e"]
    assert gone == [b"d"]


def test_whiteouts_of_nothing_in_a_renamed_directory(base: bytes, opened: Open) -> None:
    """The mount lists them and cannot find them, which does not make them files that vanished."""
    lower, upper = make(below(base, b"l"), *LOWER), below(base, b"u")
    make(lower, Dir("usr/own", Whiteout("gone"), File("kept")))
    with overlays.mounted([lower], upper, options=FULL) as merged:
        make(merged, Rename("usr", "moved"))
    gone: list[bytes] = []
    with overlays.mounted([upper, lower], options=FULL) as merged:
        assert "gone" in os.listdir(os.fsdecode(merged) + "/moved/own")
        root = os.open(merged, os.O_RDONLY)
        found = listed(list(changes(opened(upper), parent=None, merged=root, on_vanished=gone.append)))
        os.close(root)
    assert "A moved/own/kept" in found and "A moved/own/gone" not in found
    assert gone == []
