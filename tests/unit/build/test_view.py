"""A layer in the making: what hostile archives and destinations may cost, and links whose file goes away."""

from __future__ import annotations

import pytest

from streamer.build.view import ROOT, View
from streamer.errors import InvalidRequest, Unsupported
from streamer.tar.entry import DIRECTORY, LINK, REGULAR, Entry

MANY = 20_000


def test_files_that_are_replaced_again_and_again() -> None:
    """Each time in the same time: it was once every member for every replaced one."""
    view = View(None)
    for _ in range(2):
        for number in range(MANY):
            path = b"d/%d" % number
            view.lay(path, Entry(path, REGULAR, size=1))
            view.contents[path] = number
    view.lay(b"d", Entry(b"d/", DIRECTORY))
    view.lay(b"d", Entry(b"d", REGULAR))
    assert list(view.laid) == [b"d"]


def test_links_keep_the_content_of_what_they_are_links_to() -> None:
    view = View(None)
    view.lay(b"a", Entry(b"a", REGULAR, size=1))
    view.contents[b"a"] = "content"
    for name in (b"l2", b"l1", b"d/l3"):
        view.lay(name, Entry(name, LINK, linkname=b"a"))
    view.lay(b"l2", Entry(b"l2", REGULAR))
    view.lay(b"a", Entry(b"a", REGULAR))
    assert {path: (entry.type, entry.linkname) for path, entry in view.laid.items()} == {
        b"a": (REGULAR, b""), b"l2": (REGULAR, b""), b"d/l3": (REGULAR, b""), b"l1": (LINK, b"d/l3"),
    }  # fmt: skip
    assert view.contents == {b"d/l3": "content"}
    view.lay(b"d", Entry(b"d", REGULAR))
    assert (view.laid[b"l1"].type, view.contents) == (REGULAR, {b"l1": "content"})


def test_links_to_what_has_no_content() -> None:
    view = View(None)
    view.lay(b"a", Entry(b"a", REGULAR))
    view.lay(b"b", Entry(b"b", LINK, linkname=b"a"))
    view.lay(b"a", Entry(b"a", REGULAR, size=3))
    assert (view.laid[b"b"].type, view.laid[b"b"].size) == (REGULAR, 0)


@pytest.mark.parametrize("path", [b".wh.etc", b"etc/.wh..wh..opq", b"etc/.wh.x/below"])
def test_names_that_would_be_deletions(path: bytes) -> None:
    with pytest.raises(Unsupported, match="such a name means a deletion"):
        View(None).make_directory(path, ROOT, ROOT)


def test_deep_paths() -> None:
    view = View(None)
    deep = b"/".join([b"a"] * 2000)
    assert view.make_directory(view.real(deep), ROOT, ROOT)
    assert len(view.laid) == 2000
    with pytest.raises(InvalidRequest, match="is longer than 4096 bytes"):
        view.real(deep * 2)
