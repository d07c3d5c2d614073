"""apply(changes(lower, upper), lower) == upper, the upper being what the kernel wrote while a mount was changed."""

from __future__ import annotations

import itertools
import os
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from support import overlays
from support.members import apply_all, members
from support.trees import T0, Append, Device, Dir, Fifo, File, Link, Remove, Rename, Set, Symlink, copy, make, snapshot

from streamer.changeset.apply import Applier, Whiteouts
from streamer.changeset.change import Kind
from streamer.changeset.compare import compare
from streamer.changeset.layers import Layers
from streamer.changeset.overlay import changes

pytestmark = pytest.mark.root

NAMES = [b"a", b"b", b"c", b"\xff"]
PATHS = [b"/".join(p) for n in (1, 2, 3) for p in itertools.product(NAMES[:3], repeat=n)] + [b"\xff"]

TARGETS = [b"a", b"b/c", b"nowhere", b"\xfe"]
"""Never out of the tree: mutations go through path strings and would follow."""

times = st.sampled_from([T0, 0, 1_600_000_000_000_000_001, -5_000_000_000])
modes = st.sampled_from([0o644, 0o4755, 0o600, 0o1777])
owners = st.sampled_from([(0, 0), (1000, 1001)])
xattrs = st.sampled_from([{}, {"user.x": b"\0v"}, {"trusted.t": b""}])
contents = st.sampled_from([b"", b"one", b"two" * 3000])


@st.composite
def items(draw: st.DrawFn, paths: list[bytes], *, mutate: bool) -> object:
    path = draw(st.sampled_from(paths))
    common = {"mtime": draw(times), "owner": draw(owners)}
    kinds = ["file", "file", "dir", "symlink", "fifo", "device", "link"]
    kind = draw(st.sampled_from(kinds + ["remove", "rename", "rename", "append", "set", "set"] * mutate))
    match kind:
        case "file":
            return File(path, draw(contents), mode=draw(modes), xattrs=draw(xattrs), **common)
        case "dir":
            return Dir(path, mode=draw(st.sampled_from([0o755, 0o700, 0o2777])), xattrs=draw(xattrs), **common)
        case "symlink":
            return Symlink(path, draw(st.sampled_from(TARGETS)), **common)
        case "fifo":
            return Fifo(path, **common)
        case "device":
            return Device(path, 250, draw(st.integers(0, 3)), **common)
        case "link":
            return Link(path, draw(st.sampled_from(paths)))
        case "remove":
            return Remove(path)
        case "rename":
            return Rename(path, draw(st.sampled_from(paths)))
        case "append":
            return Append(path, b"more")
    return Set(path, mode=draw(modes), owner=draw(owners), mtime=draw(times))


lowers = st.lists(items(PATHS, mutate=False), min_size=3, max_size=20)
mutations = st.lists(items(PATHS, mutate=True), max_size=12)


def attempt(root: bytes, actions: list[object]) -> None:
    """Does what is possible."""
    for action in actions:
        try:
            make(root, action)
        except (OSError, subprocess.CalledProcessError):
            continue


@contextmanager
def roots(*paths: bytes) -> Iterator[list[int]]:
    fds = [os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in paths]
    try:
        yield fds
    finally:
        for fd in fds:
            os.close(fd)


def applied(target: bytes, archive: object, whiteouts: Whiteouts, lower: Layers | None) -> None:
    with roots(target) as (root,), Applier(root, whiteouts=whiteouts, lower=lower) as applier:
        apply_all(applier, archive)  # type: ignore[arg-type]
        assert not applier.skipped


@pytest.mark.parametrize("options", ["index=off", "index=off,redirect_dir=on,metacopy=on"])
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(base_items=lowers, middle=mutations, top=mutations)
def test_changes_of_an_upper_applied_give_the_merged_tree(
    options: str, base_items: list[object], middle: list[object], top: list[object]
) -> None:
    overlays.require()
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        place = os.fsencode(scratch)
        bottom, mid, upper = (os.path.join(place, name) for name in (b"bottom", b"mid", b"upper"))
        os.mkdir(bottom)
        os.mkdir(mid)
        os.mkdir(upper)
        attempt(bottom, base_items)
        with overlays.mounted([bottom], mid, options="index=off") as merged:
            attempt(merged, middle)
        with overlays.mounted([mid, bottom], upper, options=options) as merged:
            attempt(merged, top)

        below = stack.enter_context(overlays.mounted([mid, bottom]))
        merged = stack.enter_context(overlays.mounted([upper, mid, bottom], options=options))
        wanted = snapshot(merged)
        fds = stack.enter_context(roots(upper, mid, bottom, merged, below))
        lower = stack.enter_context(Layers(fds[1:3]))

        found = list(changes(fds[0], parent=lower, merged=fds[3]))
        note(str([(c.kind.letter, c.path, c.opaque) for c in found]))
        before = snapshot(below)
        for change in found:
            if change.kind is Kind.ADD and not any(change.path.startswith(c.path + b"/") for c in found if c.opaque):
                assert change.path not in before
            if change.kind is Kind.MODIFY:
                assert change.path in before

        def archive() -> object:
            return members(changes(fds[0], parent=lower, merged=fds[3]))

        # Onto a copy of the tree below, by deleting.
        plain = os.path.join(place, b"plain")
        os.mkdir(plain)
        copy(below, plain)
        applied(plain, archive(), Whiteouts.DELETE, None)
        assert snapshot(plain) == wanted

        # Into a new layer, by marks.
        layer = os.path.join(place, b"layer")
        os.mkdir(layer)
        applied(layer, archive(), Whiteouts.OVERLAY, lower)
        with overlays.mounted([layer, mid, bottom]) as again:
            assert snapshot(again) == wanted

        # A whole tree, as one layer.
        whole = os.path.join(place, b"whole")
        os.mkdir(whole)
        applied(whole, members(compare(None, fds[3])), Whiteouts.PLAIN, None)
        assert snapshot(whole) == wanted

        # By comparing, which sees the same but for marks; times of directories are not told (Docker's rule).
        naive = os.path.join(place, b"naive")
        os.mkdir(naive)
        copy(below, naive)
        applied(naive, members(compare(fds[4], fds[3])), Whiteouts.DELETE, None)
        assert told(snapshot(naive)) == told(wanted)


def told(tree: dict[bytes, dict[str, object]]) -> dict[bytes, dict[str, object]]:
    """What Docker's comparison looks at: xattrs (but for capabilities) and hard links it does not, nor directories'
    times, nor link targets and contents where all else is the same."""
    return {
        path: {key: value for key, value in one.items() if key not in ("xattrs", "links", "content", "target", "mtime")}
        for path, one in tree.items()
    }


@settings(max_examples=80, deadline=None)
@given(base_items=lowers, top=mutations, extra=mutations)
def test_layers_look_up_what_a_mount_shows(base_items: list[object], top: list[object], extra: list[object]) -> None:
    overlays.require()
    with tempfile.TemporaryDirectory() as scratch:
        place = os.fsencode(scratch)
        layers = [os.path.join(place, name) for name in (b"2", b"1", b"0")]
        for path in layers:
            os.mkdir(path)
        attempt(layers[2], base_items)
        with overlays.mounted(layers[2:], layers[1]) as merged:
            attempt(merged, top)
        with overlays.mounted(layers[1:], layers[0]) as merged:
            attempt(merged, extra)
        with overlays.mounted(layers) as merged, roots(*layers) as fds, Layers(fds) as stack:
            tree = snapshot(merged)
            for path in PATHS:
                found = stack.lookup(path)
                assert (found is not None) == (path in tree)
                if found is None:
                    continue
                seen = os.lstat(os.path.join(merged, path))
                for field in ("st_mode", "st_uid", "st_gid", "st_mtime_ns", "st_rdev"):
                    assert getattr(found.stat, field) == getattr(seen, field)
                if stat.S_ISLNK(seen.st_mode):
                    assert found.readlink() == tree[path]["target"]
                if stat.S_ISREG(seen.st_mode):
                    assert found.stat.st_size == seen.st_size
                    with open(found.open(), "rb") as file:
                        assert file.read() == tree[path]["content"]
