"""The walk of several layers without a mount == the walk of the kernel's own mount of them."""

from __future__ import annotations

import os
import stat
import tempfile
from contextlib import ExitStack, closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from property.test_changeset_overlay import PATHS, attempt, lowers, mutations, roots
from support import overlays
from support.trees import Dir, File, Opaque, Whiteout

from streamer.changeset.change import Node
from streamer.changeset.content import blocks, link_target, open_regular, xattrs
from streamer.changeset.marks import Marks
from streamer.changeset.merge import merge
from streamer.changeset.stack import Stack
from streamer.changeset.vanishing import unless_whiteout
from streamer.changeset.walk import walk

pytestmark = pytest.mark.root

FULL = "redirect_dir=on,metacopy=on"
OPTIONS = ["index=off,redirect_dir=off,metacopy=off", f"index=off,{FULL}", "userxattr"]


def handmade(options: str) -> st.SearchStrategy[list[tuple[int, object]]]:
    """What no kernel wrote: (layer from the bottom, item) of whiteouts of nothing, also in directories that only that
    layer has and in its root, and of opaque directories. Where data may lie in lower layers (metacopy), the mutations'
    names are left alone: what hides it makes the overlay unreadable to the kernel as well."""
    made: list[object] = [Whiteout(path) for path in (b"gone", b"own/gone", b"own/sub/gone")]
    made.append(Dir("own", Whiteout("gone"), File("kept"), Dir("sub", Whiteout("gone"), Whiteout("kept"))))
    if FULL not in options:
        made += [Whiteout(path) for path in PATHS[:12]]
        made += [Opaque(path, options == "userxattr") for path in PATHS[:12]]
        made.append(Dir("a", Whiteout("gone"), Whiteout("b")))
    return st.lists(st.tuples(st.integers(0, 4), st.sampled_from(made)), max_size=4)


def seen(node: Node) -> tuple[object, ...]:
    """All that an archive has of a node; of a directory's size and links the kernel says something of its own."""
    status = node.stat
    what: list[object] = [node.path, node.name, oct(status.st_mode), status.st_uid, status.st_gid, status.st_mtime_ns]
    what.append(sorted(xattrs(node).items()))
    if stat.S_ISREG(status.st_mode):
        fd = open_regular(node)
        with open(fd, "rb") as file:
            what += [status.st_size, b"".join(blocks(file.fileno(), status.st_size))]
    elif stat.S_ISLNK(status.st_mode):
        what.append(link_target(node))
    elif not stat.S_ISDIR(status.st_mode):
        what.append(status.st_rdev)
    return tuple(what)


@pytest.mark.parametrize("options", OPTIONS, ids=["plain", "full", "user"])
@settings(max_examples=40, deadline=None)
@given(base_items=lowers, changes=st.lists(mutations, min_size=1, max_size=4), data=st.data())
def test_merged_walk_is_the_walk_of_a_mount(
    options: str, base_items: list[object], changes: list[list[object]], data: st.DataObject
) -> None:
    overlays.require()
    extra = data.draw(handmade(options))
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        place = os.fsencode(scratch)
        layers = [os.path.join(place, b"0")]
        os.mkdir(layers[0])
        attempt(layers[0], base_items)
        for number, items in enumerate(changes, 1):
            upper = os.path.join(place, b"%d" % number)
            os.mkdir(upper)
            with overlays.mounted(layers, upper, options=options) as merged:
                attempt(merged, items)
            layers.insert(0, upper)
        for number, item in extra:
            if number < len(layers):
                attempt(layers[-1 - number], [item])
        merged = stack.enter_context(overlays.mounted(layers, options=options))
        *fds, root = stack.enter_context(roots(*layers, merged))
        walked = Stack(fds, Marks(userxattr=options == "userxattr"))
        gone: list[bytes] = []
        with closing(walked), closing(merge(walked, on_vanished=gone.append)) as nodes:
            found = [seen(node) for node in nodes]
        for live in (True, False):
            with closing(walk(root, on_vanished=unless_whiteout(root, gone.append, live=live))) as mounted:
                assert found == [seen(node) for node in mounted]
        assert not gone
