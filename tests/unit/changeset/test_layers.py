from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest
from support.trees import Dir, File, Opaque, Symlink, Whiteout, deep, make

from streamer.changeset.layers import Layers

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="whiteouts and trusted xattrs need root")

Open = Callable[[bytes], int]


@pytest.fixture
def layers(base: bytes, opened: Open) -> Iterator[Layers]:
    trees = [
        [File("f", "top"), Whiteout("gone"), Opaque("o"), File("o/new"), Dir("d", File("x", "2")), Symlink("s", "/d")],
        [File("f", "mid"), Dir("d", File("y", "1"), Whiteout("w")), File("o/old"), Whiteout("dir")],
        [
            File("gone"),
            Dir("d", File("x", "0"), File("w"), File("z")),
            Dir("dir", File("a")),
            Symlink("d/up", "../s/y"),
        ],
    ]
    roots = [opened(make(os.path.join(base, b"%d" % i), *tree)) for i, tree in enumerate(trees)]
    with Layers(roots) as stack:
        yield stack


@pytest.mark.parametrize(
    ("path", "layer"),
    [
        (b"", 0),
        (b"f", 0),
        (b"gone", None),
        (b"o", 0),
        (b"o/new", 0),
        (b"o/old", None),
        (b"d", 0),
        (b"d/x", 0),
        (b"d/y", 1),
        (b"d/w", None),
        (b"d/z", 2),
        (b"dir", None),
        (b"dir/a", None),
        (b"f/x", None),
        (b"s/y", None),
        (b"nowhere/at/all", None),
    ],
)
def test_lookup(layers: Layers, path: bytes, layer: int | None) -> None:
    found = layers.lookup(path)
    assert (None if found is None else found.layer) == layer


def test_what_was_found_can_be_read(layers: Layers) -> None:
    found = layers.lookup(b"d/y")
    assert found is not None
    with open(found.open(), "rb") as file:
        assert file.read() == b"1"
    link = layers.lookup(b"s")
    assert link is not None and link.readlink() == b"/d"
    assert found.xattrs() == {}


def test_few_descriptors_and_any_depth(base: bytes, opened: Open) -> None:
    root = os.path.join(base, b"l")
    os.mkdir(root)
    deep(root, 1500, leaf="f")
    make(root, *(Dir(f"many{i}", File("f")) for i in range(300)))
    before = len(os.listdir("/proc/self/fd"))
    with Layers([opened(root)]) as stack:
        for i in range(300):
            assert stack.lookup(b"many%d/f" % i) is not None
        assert stack.lookup(b"/".join([b"d"] * 1500 + [b"f"])) is not None
        assert len(os.listdir("/proc/self/fd")) - before <= 130


def test_no_layers(opened: Open) -> None:
    with Layers([]) as stack:
        assert stack.lookup(b"") is None
        assert stack.lookup(b"a/b") is None
