"""Several layers walked as one tree; that it is the kernel's tree is for the property tests to say."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
from support import overlays
from support.trees import Append, Dir, File, Link, Opaque, Remove, Rename, Set, Symlink, Whiteout, deep, make

from streamer.changeset.change import Node
from streamer.changeset.content import blocks, open_regular
from streamer.changeset.marks import Marks
from streamer.changeset.merge import directory, merge
from streamer.changeset.parts import OPEN, Met, Part
from streamer.changeset.stack import Stack
from streamer.changeset.walk import walk
from streamer.errors import InvalidRequest, NotFound, SourceChanged, Unsupported

pytestmark = pytest.mark.root

Open = Callable[[bytes], int]
Stacked = Callable[..., Stack]
FULL = "index=off,redirect_dir=on,metacopy=on"


@pytest.fixture
def stacked(base: bytes, opened: Open) -> Iterator[Stacked]:
    """`stacked(items, items, …)`: layers made of the items, topmost first."""
    stacks: list[Stack] = []

    def stack(*layers: object, marks: Marks = Marks()) -> Stack:  # noqa: B008
        roots = [opened(make(os.path.join(base, b"%d" % n), items)) for n, items in enumerate(layers)]
        stacks.append(Stack(roots, marks))
        return stacks[-1]

    yield stack
    for one in stacks:
        one.close()


def paths(stack: Stack, **options: object) -> list[bytes]:
    with closing(merge(stack, **options)) as nodes:  # type: ignore[arg-type]
        return [node.path for node in nodes]


def read(node: Node) -> bytes:
    fd = open_regular(node)
    try:
        return b"".join(blocks(fd, node.stat.st_size))
    finally:
        os.close(fd)


def test_names_in_order_attributes_of_the_topmost(stacked: Stacked) -> None:
    stack = stacked(
        [Dir("d", File("b"), mode=0o700), Whiteout("gone"), Opaque("o"), File("o/n")],
        [Dir("d", File("a", "middle"), File("c")), Dir("o", File("x")), File("d-")],
        [Dir("d", File("a"), Whiteout("w")), File("gone"), Whiteout("nothing")],
    )
    with closing(merge(stack)) as nodes:
        found = {node.path: stat.S_IMODE(node.stat.st_mode) for node in nodes}
    assert list(found) == [b"", b"d", b"d/a", b"d/b", b"d/c", b"d-", b"o", b"o/n"]
    assert found[b"d"] == 0o700


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        (b"etc", [b"etc", b"etc/a", b"etc/b", b"etc/s"]),
        (b"/etc/", [b"etc", b"etc/a", b"etc/b", b"etc/s"]),
        (b"./etc//b", [b"etc/b"]),
        (b"etc/s", [b"etc/s"]),
        (b"link/b", [b"link/b"]),
        (b"absolute/b", [b"absolute/b"]),
        (b"link", [b"link"]),
        (b"up/a", [b"up/a"]),
    ],
)
def test_start_is_found_as_in_a_chroot(stacked: Stacked, start: bytes, expected: list[bytes]) -> None:
    stack = stacked(
        [Dir("etc", File("a")), Symlink("link", "etc"), Symlink("absolute", "/x/../../../etc"), Dir("x")],
        [Dir("etc", File("b"), Symlink("s", "a")), Symlink("up", "../link/."), File("link")],
    )
    assert paths(stack, start=start) == expected


@pytest.mark.parametrize(
    ("start", "error"),
    [
        (b"nothing", NotFound),
        (b"gone", NotFound),
        (b"etc/a/b", NotFound),
        (b"nothing/b", NotFound),
        (b"loop/x", InvalidRequest),
        (b"../etc", InvalidRequest),
        (b"e\0", InvalidRequest),
        (b"n" * 256, InvalidRequest),
        (b"n" * 256 + b"/x", InvalidRequest),
    ],
)
def test_bad_starts(stacked: Stacked, start: bytes, error: type[Exception]) -> None:
    stack = stacked([Symlink("loop", "loop"), Whiteout("gone")], [Dir("etc", File("a")), File("gone")])
    with pytest.raises(error):
        paths(stack, start=start)


def test_directories_by_path(stacked: Stacked) -> None:
    stack = stacked([Dir("a/b"), Symlink("l", "/a/b")], [Dir("a/b", File("x"))])
    assert paths(stack, within=directory(stack, b"l/../b"), start=b"x") == [b"x"]
    assert directory(stack, b"../..") == stack.root
    with pytest.raises(InvalidRequest, match="NUL"):
        directory(stack, b"a\0")


def test_no_layers(stacked: Stacked) -> None:
    assert paths(stacked()) == []
    with pytest.raises(NotFound):
        paths(stacked(), start=b"x")


class Chosen:
    def __init__(self, emitted: set[bytes], entered: set[bytes]) -> None:
        self.emitted, self.entered = emitted, entered

    def emits(self, path: bytes, is_dir: bool) -> bool:
        return path in self.emitted

    def enters(self, path: bytes) -> bool:
        return path in self.entered


def test_select_decides_what_comes_and_what_is_opened(stacked: Stacked) -> None:
    stack = stacked([Dir("a", File("x")), Dir("b", File("z"))], [Dir("a", File("y"))])
    assert paths(stack, select=Chosen({b"a/y", b"b", b"b/z"}, {b"", b"a"})) == [b"a/y", b"b"]


@pytest.mark.parametrize("siblings", [False, True])
def test_deep_trees_and_many_layers_take_few_descriptors(
    base: bytes, opened: Open, stacked: Stacked, siblings: bool
) -> None:
    name = b"d" * 200
    for layer, depth in ((b"0", 3000), (b"1", 1500)):
        os.mkdir(os.path.join(base, layer))
        deep(os.path.join(base, layer), depth, name, leaf=b"leaf" + layer, siblings=siblings)
    # Whatever lies as deep in all of the others.
    stack = stacked([], [], *([Dir("d" * 200, File(str(n)))] for n in range(124)))
    before = len(os.listdir("/proc/self/fd"))
    count = most = 0
    longest = b""
    with closing(merge(stack)) as nodes:
        for node in nodes:
            count += 1
            if count % 100 == 0:
                most = max(most, len(os.listdir("/proc/self/fd")) - before)
                assert os.path.samestat(node.stat, os.stat(node.name, dir_fd=node.parent, follow_symlinks=False))
            longest = max(longest, node.path, key=len)
    assert count == 1 + 3000 * (2 if siblings else 1) + 2 + 124
    assert len(longest) == 3000 * 201 + len(b"leaf0")
    assert most <= OPEN + 2


def test_leaving_a_walk_early_closes_everything(base: bytes, stacked: Stacked) -> None:
    stack = stacked([Dir("a/b/c/d", File("x"))], [Dir("a/b/c/d", File("x"))])
    nodes = merge(stack)
    for node in nodes:
        if node.path.endswith(b"x"):
            break
    nodes.close()


def changed_by_kernel(base: bytes, *steps: list[object]) -> list[bytes]:
    """Layers, topmost first, that the kernel wrote: each step changes a mount of those before."""
    layers: list[bytes] = []
    for number, items in enumerate(steps):
        layer = os.path.join(base, b"layer%d" % number)
        os.mkdir(layer)
        if layers:
            with overlays.mounted(layers, layer, options=FULL) as merged:
                make(merged, *items)
        else:
            make(layer, *items)
        layers.insert(0, layer)
    return layers


def test_renames_and_copied_attributes_through_several_layers(base: bytes, opened: Open) -> None:
    overlays.require()
    layers = changed_by_kernel(
        base,
        [
            Dir("a", Dir("b", File("f", "data" * 100), File("g", "g"), Dir("deep", File("x", "x")))),
            Dir("over", File("o")),
        ],
        [Rename("a/b", "a/c"), Set("a/c/f", mode=0o600), File("a/c/new", "1")],
        [
            Rename("a/c", "moved"),
            Rename("moved/deep", "deeper"),
            Set("moved/g", owner=(5, 5)),
            Append("moved/new", "2"),
        ],
        [Rename("moved/f", "over/file"), Link("over/link", "over/file"), Remove("moved/g"), Rename("over", "a/over")],
        [Rename("moved", "back"), Remove("a/over/o"), File("back/deep", "not it"), Set("a/over/file", mode=0o4711)],
    )
    marks = {
        name
        for layer in layers
        for path, _, names in os.walk(layer)
        for file in (*names, b".")
        for name in os.listxattr(os.path.join(path, file))
    }
    assert {"trusted.overlay.redirect", "trusted.overlay.metacopy"} <= marks
    with overlays.mounted(layers, options=FULL) as merged:
        root = os.open(merged, os.O_RDONLY)
        wanted = [(n.path, n.stat.st_mode, read(n) if stat.S_ISREG(n.stat.st_mode) else None) for n in walk(root)]
        os.close(root)
    with closing(Stack([opened(layer) for layer in layers], Marks())) as stack, closing(merge(stack)) as nodes:
        found = [(n.path, n.stat.st_mode, read(n) if stat.S_ISREG(n.stat.st_mode) else None) for n in nodes]
    assert found == wanted
    assert {path: data for path, _, data in found}[b"a/over/link"] == b"data" * 100


REDIRECTS = [b"", b"/", b"..", b"/..", b"/../../etc", b"a/b", b"/a//b", b".", b"/a/./b", b"a\0b"]


@pytest.mark.parametrize("redirect", REDIRECTS)
def test_redirects_that_lead_nowhere_good(stacked: Stacked, redirect: bytes) -> None:
    stack = stacked(
        [Dir("d", xattrs={"trusted.overlay.redirect": redirect})], [Dir("a", Dir("b", File("x")))], [Dir("a")]
    )
    with pytest.raises(Unsupported, match=r"'d' has a mark \(redirect\) that is not valid"):
        paths(stack)


def test_a_redirect_through_a_link_finds_nothing(stacked: Stacked) -> None:
    stack = stacked(
        [Dir("d", File("own"), xattrs={"trusted.overlay.redirect": b"/l/etc"})], [Symlink("l", "/"), Dir("l2")]
    )
    assert paths(stack, start=b"d") == [b"d", b"d/own"]


@pytest.mark.parametrize("marks", [Marks(userxattr=True), Marks(fuse=True)])
def test_marks_that_anybody_can_write_are_not_followed(stacked: Stacked, marks: Marks) -> None:
    renamed = stacked([Dir("d", xattrs={"user.overlay.redirect": b"/secret"})], [Dir("secret", File("x"))], marks=marks)
    with pytest.raises(Unsupported, match="'d' was renamed"):
        paths(renamed)


def test_data_that_anybody_can_point_to_is_not_read(stacked: Stacked) -> None:
    attributes = {"user.overlay.metacopy": b"", "user.overlay.redirect": b"/secret"}
    stack = stacked([File("f", "0", xattrs=attributes)], [File("secret", "s")], marks=Marks(userxattr=True))
    with pytest.raises(Unsupported, match=r"'f' lies in another layer \(metacopy\)"):
        paths(stack)


@pytest.mark.parametrize("below", [[], [Dir("f")], [Symlink("f", "x")], [Whiteout("f")]])
def test_data_that_is_nowhere_is_never_zeros(stacked: Stacked, below: list[object]) -> None:
    stack = stacked(
        [File("f", b"\0" * 9, xattrs={"trusted.overlay.metacopy": b""})], below, [File("f", "hidden")][: len(below)]
    )
    with pytest.raises(Unsupported, match=r"'f' lies in a layer \(metacopy\)"):
        paths(stack)


def test_the_last_layer_has_all_its_data(stacked: Stacked) -> None:
    stack = stacked([], [File("f", b"\0" * 9, xattrs={"trusted.overlay.metacopy": b""})])
    with pytest.raises(Unsupported, match="metacopy"):
        paths(stack)


def test_what_vanishes_above_does_not_come_to_light_below(base: bytes, stacked: Stacked) -> None:
    stack = stacked([Whiteout("b"), File("c"), Dir("d")], [File("a"), File("b"), File("c"), Dir("d", File("x"))])
    vanished: list[bytes] = []
    seen = []
    with closing(merge(stack, on_vanished=vanished.append)) as nodes:
        for node in nodes:
            seen.append(node.path)
            if node.path == b"a":
                make(os.path.join(base, b"0"), Remove("b"), Remove("c"), Remove("d"))
    assert seen == [b"", b"a"]
    assert vanished == [b"b", b"c", b"d"]


def test_a_merged_directory_that_is_being_removed(base: bytes, stacked: Stacked) -> None:
    """The kernel moves it away, then takes its whiteouts away, then removes it."""
    stack = stacked([Dir("d", Whiteout("x"))], [Dir("d", File("x")), File("z")])
    top = os.path.join(base, b"0")
    vanished: list[bytes] = []
    seen = []
    with closing(merge(stack, on_vanished=vanished.append)) as nodes:
        for node in nodes:
            seen.append(node.path)
            if node.path == b"d":
                make(top, Remove("d"), Whiteout("d"))
    assert (seen, vanished) == ([b"", b"d", b"z"], [b"d"])


def test_a_merged_directory_that_was_moved_away(base: bytes, stacked: Stacked) -> None:
    stack = stacked([Dir("d", Whiteout("x"))], [Dir("d", File("x"))])
    with pytest.raises(SourceChanged, match=r"'d' changed.*moved away"), closing(merge(stack)) as nodes:
        for node in nodes:
            if node.path == b"d":
                make(os.path.join(base, b"0"), Rename("d", "work"), Remove("work/x"))


def test_a_directory_that_is_replaced_just_then_is_looked_at_again(
    stacked: Stacked, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = stacked([Dir("d", File("a"))], [Dir("d", File("b")), File("z")])
    real, tried = Stack.entered, []

    def once(self: Stack, met: Met, path: bytes) -> Part | None:
        tried.append(path)
        return None if len(tried) == 1 else real(self, met, path)

    monkeypatch.setattr(Stack, "entered", once)
    assert paths(stack) == [b"", b"d", b"d/a", b"d/b", b"z"]
    monkeypatch.setattr(Stack, "entered", lambda *_: None)
    with pytest.raises(SourceChanged, match="'d' changed while it was read: it is replaced all the time"):
        paths(stack)


def test_a_directory_of_a_layer_replaced_by_a_link_leads_nowhere(base: bytes, stacked: Stacked) -> None:
    stack = stacked([], [Dir("a", Dir("b", File("x"))), Dir("c"), Dir("d", Dir("b", File("other")))])
    with pytest.raises(SourceChanged), closing(merge(stack)) as nodes:
        for node in nodes:
            if node.path == b"a":
                layer = os.path.join(base, b"1")
                stack.close()
                os.rename(os.path.join(layer, b"a"), os.path.join(layer, b"e"))
                os.symlink(b"d", os.path.join(layer, b"a"))
