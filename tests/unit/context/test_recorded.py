"""Whose files are, by the tars of layers: the one that a file lies in tells, and what nobody tells is refused."""

from __future__ import annotations

import os
import stat
from collections.abc import Generator, Sequence

import pytest

from streamer.changeset.change import Node
from streamer.context import recorded
from streamer.context.recorded import Known, Recorded, Said
from streamer.errors import LimitExceeded, Unsupported
from streamer.stores.base import Layer
from streamer.tar.entry import CHAR, DIRECTORY, LINK, REGULAR, SYMLINK, Entry


def entry(path: str, kind: bytes, mode: int, uid: int, gid: int = 0, *, target: str = "") -> tuple[bytes, Entry]:
    return path.encode(), Entry(path.encode(), kind, mode, uid, gid, linkname=target.encode())


TOP = [
    entry("d", DIRECTORY, 0o750, 3),
    entry("e/f", REGULAR, 0o644, 0),
    entry("twice", REGULAR, 0o4755, 3),
    entry("twice", REGULAR, 0o644, 0),
    entry("again", REGULAR, 0o644, 0),
    entry("again", REGULAR, 0o600, 4),
    entry("link", SYMLINK, 0o644, 5),
    entry("first", REGULAR, 0o4711, 6, 7),
    entry("second", LINK, 0o600, 9, target="first"),
    entry("third", LINK, 0o600, 9, target="e/f"),
    entry("fourth", LINK, 0o600, 9, target="elsewhere"),
    entry("device", CHAR, 0o600, 9),
    entry("new/.wh..wh..opq", REGULAR, 0o644, 0),
    entry("in/.wh.hidden", REGULAR, 0o644, 9),
]
BELOW = [
    entry("d", DIRECTORY, 0o700, 8),
    entry("e", DIRECTORY, 0o2555, 1, 2),
    entry("e/f", REGULAR, 0o644, 9),
    entry("low", REGULAR, 0o000, 9),
    entry("new", DIRECTORY, 0o755, 9),
    entry("in/hidden/d", DIRECTORY, 0o755, 9),
    entry("in/other", DIRECTORY, 0o755, 9),
    entry("in/hidden/same", DIRECTORY, 0o755, 0),
]


class Layers:
    """Two layers that count how often they are read."""

    def __init__(self) -> None:
        self.read = [0, 0]
        self.layers = [self.layer(number, members) for number, members in enumerate((TOP, BELOW))]

    def layer(self, number: int, members: Sequence[tuple[bytes, Entry]]) -> Layer:
        def headers() -> Generator[tuple[bytes, Entry], None, None]:
            self.read[number] += 1
            yield from members

        digest = f"sha256:{number:064}"
        return Layer("memory", digest, digest, headers=headers)

    def said(self, path: str, mode: int, layer: int, holders: Sequence[int] = ()) -> Said:
        status = os.stat_result((mode, *range(9)))
        return Recorded(self.layers, Known()).said(Node(path.encode(), b"", -1, status, layer=layer), lambda: holders)


D, F, L = stat.S_IFDIR, stat.S_IFREG, stat.S_IFLNK
TOLD: dict[str, tuple[tuple[str, int, int, tuple[int, ...]], Said]] = {
    "the topmost counts": (("d", D | 0o750, 0, (0, 1)), Said(0o750, 3, 0)),
    "implied as below": (("e", D | 0o755, 0, (0, 1)), Said(0o2555, 1, 2)),
    "implied and nothing below": (("e", D | 0o755, 0, (0,)), Said(0o755, 0, 0)),
    "implied beside a deletion": (("in/other", D | 0o755, 0, (0,)), Said(0o755, 0, 0)),
    "implied in what came again, as below": (("in/hidden/same", D | 0o755, 0, (0,)), Said(0o755, 0, 0)),
    "implied in what came again, nothing below": (("in/hidden/none", D | 0o755, 0, (0,)), Said(0o755, 0, 0)),
    "root's": (("e/f", F | 0o644, 0, ()), Said(0o644, 0, 0)),
    "in the lower one": (("low", F | 0o400, 1, ()), Said(0, 9, 0)),
    "root's at last": (("twice", F | 0o644, 0, ()), Said(0o644, 0, 0)),
    "somebody's at last": (("again", F | 0o600, 0, ()), Said(0o600, 4, 0)),
    "a link": (("link", L | 0o777, 0, ()), Said(0o777, 5, 0)),
    "a hard link is the file": (("second", F | 0o4711, 0, ()), Said(0o4711, 6, 7)),
    "a hard link to root's": (("third", F | 0o644, 0, ()), Said(0o644, 0, 0)),
}


@pytest.mark.parametrize("name", TOLD)
def test_told(name: str) -> None:
    given, expected = TOLD[name]
    assert Layers().said(*given) == expected


REFUSED: dict[str, tuple[str, int, int, tuple[int, ...]]] = {
    "not in its layer": ("low", F | 0o644, 0, ()),
    "another mode": ("again", F | 0o644, 0, ()),
    "implied, but not as a new one": ("e", D | 0o750, 0, (0,)),
    "implied, but not as below": ("e", D | 0o711, 0, (0, 1)),
    "a hard link to what is not there": ("fourth", F | 0o644, 0, ()),
    "implied in a layer that hides what it had": ("new", D | 0o755, 0, (0,)),
    "implied in what came again": ("in/hidden/d", D | 0o755, 0, (0,)),
    "a device's name": ("device", F | 0o600, 0, ()),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    path, *_ = REFUSED[name]
    with pytest.raises(Unsupported, match=f"^cannot tell whose /{path} of the image is"):
        Layers().said(*REFUSED[name])


def test_a_layer_that_does_not_tell() -> None:
    layers = Layers()
    layers.layers[0] = Layer("memory", "sha256:" + "1" * 64, "sha256:" + "1" * 64)
    with pytest.raises(Unsupported, match="layer 111111111111 of store memory does not tell"):
        layers.said("d", D | 0o750, 0)


def test_layers_are_read_once_and_only_when_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    layers, known = Layers(), Known()
    node = Node(b"d", b"", -1, os.stat_result((D | 0o750, *range(9))), layer=0)
    for _ in range(2):
        told = Recorded(layers.layers, known)
        told.said(node, tuple)
        told.said(node, tuple)
    assert layers.read == [1, 0]
    monkeypatch.setattr(recorded, "_KEPT", 1)
    known.members(layers.layers[1])
    known.members(layers.layers[0])
    assert layers.read == [2, 1]


def test_names_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorded, "_NAMES", 8)
    with pytest.raises(LimitExceeded, match="take more than 8 bytes"):
        Layers().said("d", D | 0o750, 0)
