"""Byte identity with go-archive: whole exports of profile `docker`, against the docker command and against a daemon."""

from __future__ import annotations

import asyncio
import json
import os
import struct
import tarfile
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from support import docker_cp, exports, overlays, trees
from support.engines import Command
from support.everything import CAPABILITY_2, CAPABILITY_3, EVERYTHING, SECOND
from support.trees import Append, Device, Dir, Fifo, File, Link, Remove, Set, Symlink

from streamer.export.container import plan_container
from streamer.export.diff import plan_diff
from streamer.export.plan import Options
from streamer.mounts.mount import Snapshot

pytestmark = [pytest.mark.engine, pytest.mark.root]
docker_command = docker_cp.needed


def same_bytes(given: bytes, expected: bytes) -> None:
    """Equality whose failure shows the first block that differs, not megabytes."""
    if given != expected:
        for at in range(0, min(len(given), len(expected)), 512):
            assert given[at : at + 512] == expected[at : at + 512], f"first difference in the block at byte {at}"
        assert len(given) == len(expected)


async def compared(place: Path | str, *items: object) -> None:
    """Makes the tree `r` in `place`: exported as `path=r` its names are those that `docker cp r` gives."""
    top, below = os.path.join(place, "top"), os.path.join(place, "below")
    trees.make(below)
    trees.make(os.path.join(top, "r"), *items)
    expected = docker_cp.golden(os.path.join(top, "r"), contents=False)
    for container in (exports.container(top), exports.container(top, below)):
        same_bytes(await exports.body(plan_container(container, Options(path=b"r"))), expected)


@docker_command
async def test_every_kind_of_entry(tmp_path: Path) -> None:
    await compared(tmp_path, *EVERYTHING)


@docker_command
async def test_a_capability_for_one_user_namespace_becomes_a_plain_one(tmp_path: Path) -> None:
    await compared(tmp_path, File("v3", b"x", xattrs={"security.capability": CAPABILITY_3, "user.other": b"left out"}))


@docker_command
async def test_empty_root(tmp_path: Path) -> None:
    await compared(tmp_path)


NAMES = st.one_of(
    st.binary(min_size=1, max_size=12),
    st.text(st.sampled_from("aZ.-_ é日"), min_size=1, max_size=12).map(str.encode),
    st.builds(
        lambda n, c: c * n, st.sampled_from([98, 99, 100, 101, 154, 155, 156, 254, 255]), st.sampled_from([b"n", b"-"])
    ),
).filter(lambda name: b"/" not in name and b"\0" not in name and name not in (b".", b"..") and len(name) <= 255)
COMMON = {
    "mode": st.integers(0, 0o7777),
    "owner": st.tuples(*[st.sampled_from([0, 1, 1000, 2097151, 2097152, 4294967294])] * 2),
    "mtime": st.one_of(
        st.integers(0, 2**31 * SECOND), st.sampled_from([0, -1, -SECOND, 2**32 * SECOND, 2**33 * SECOND - 1])
    ),
}
CAPABILITIES = st.one_of(
    st.just({}),
    st.builds(
        lambda permitted, effective: {
            "security.capability": struct.pack("<5I", 0x02000000 | effective, permitted, 0, 0, 0)
        },
        st.integers(1, 2**31 - 1),
        st.integers(0, 1),
    ),
    st.just({"security.capability": CAPABILITY_2, "user.x": b"1"}),
)
LEAVES = st.one_of(
    st.builds(
        File, NAMES, st.one_of(st.binary(max_size=40), st.integers(0, 1500).map(bytes)), xattrs=CAPABILITIES, **COMMON
    ),
    st.builds(
        Symlink,
        NAMES,
        st.one_of(st.binary(min_size=1, max_size=20), st.integers(1, 300).map(lambda n: b"t" * n)).filter(
            lambda target: b"\0" not in target
        ),
        owner=COMMON["owner"],
        mtime=COMMON["mtime"],
    ),
    # Not 0:0, which in the overlay's layer would be a whiteout.
    st.builds(Device, NAMES, st.integers(1, 4095), st.integers(0, 1048575), block=st.booleans(), **COMMON),
    st.builds(Fifo, NAMES, **COMMON),
)
TREES = st.recursive(
    st.lists(LEAVES, max_size=6),
    lambda children: st.lists(
        st.one_of(
            LEAVES,
            st.builds(
                lambda name, inside, kw: Dir(name, *inside, **kw), NAMES, children, st.fixed_dictionaries(COMMON)
            ),
        ),
        max_size=6,
    ),
    max_leaves=8,
)


@docker_command
@settings(
    max_examples=50,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=True,
    database=None,
    phases=[Phase.generate],  # a docker command for each: shrinking would take minutes
)
@given(tree=TREES, links=st.lists(st.tuples(NAMES, st.integers(0, 50)), max_size=3))
def test_random_trees(tree: list[object], links: list[tuple[bytes, int]]) -> None:
    place = tempfile.mkdtemp()
    try:
        items = list(_distinct(tree))
        taken = {_name(item) for item in items}
        files = [_name(item) for item in items if not isinstance(item, Dir)]
        for name, number in links:
            if files and name not in taken:
                taken.add(name)
                items.append(Link(name, files[number % len(files)]))
        asyncio.run(compared(place, *items))
    finally:
        trees.erase(place)


def _distinct(items: Iterable[object]) -> Iterable[object]:
    """The items whose name no earlier one of the same directory has, all the way down."""
    taken = set()
    for item in items:
        if _name(item) in taken:
            continue
        taken.add(_name(item))
        if isinstance(item, Dir):
            yield Dir(item.path, *_distinct(item.children), mode=item.mode, owner=item.owner, mtime=item.mtime)
        else:
            yield item


def _name(item: object) -> bytes:
    path = item.path  # type: ignore[attr-defined]
    assert isinstance(path, bytes)
    return path


async def test_whole_container_as_a_daemon_exports_it(docker: Command, tmp_path: Path) -> None:
    """`docker export` of a daemon: no base name, a real overlay of three layers, the init layer among them.

    Daemons up to 23.0 put the file's type into the mode field (W3), and older ones the names of the daemon's host's
    users: there these fields are masked in both.
    """
    tree = tmp_path / "r"
    trees.make(tree, *EVERYTHING)
    image = docker.text("import", _packed(tree))
    container = docker.text("create", image, "/none")
    try:
        layers = docker.json("inspect", "--format", "{{json .GraphDriver.Data}}", container)
        found = exports.container(layers["UpperDir"], *layers["LowerDir"].split(":"))
        given = await exports.body(plan_container(found, Options()))
        same_bytes(_masked(given), _masked(docker("export", container)))
    finally:
        docker("rm", container)
        docker("rmi", "-f", image)


async def test_diff_as_a_daemon_commits_it(docker: Command, tmp_path: Path) -> None:
    """`docker commit` of a container whose upper directory a real overlay wrote: deletions, an opaque directory."""
    tree = tmp_path / "r"
    trees.make(tree, *EVERYTHING)
    image = docker.text("import", _packed(tree))
    container = docker.text("create", image, "/none")
    committed = None
    try:
        layers = docker.json("inspect", "--format", "{{json .GraphDriver.Data}}", container)
        upper, *lowers = (os.fsencode(path) for path in [layers["UpperDir"], *layers["LowerDir"].split(":")])
        with overlays.mounted(lowers, upper) as merged:
            trees.make(merged, *CHANGES)
        committed = docker.text("commit", container)
        docker("save", "-o", tmp_path / "saved.tar", committed)
        found = replace(
            exports.container(upper, below=lowers), snapshot=Snapshot("overlay", tuple(lowers), upper=upper)
        )
        given = await exports.body(plan_diff(found, Options()))
        same_bytes(_masked(given), _masked(_top_layer(tmp_path / "saved.tar")))
    finally:
        docker("rm", container)
        docker("rmi", "-f", *filter(None, [committed, image]))


CHANGES = (
    *(Remove(name) for name in ("large", "deep", "capable")),
    Remove("tmp"),
    Dir("tmp", File("instead")),
    File("setuid", b"changed", mode=0o4711),
    File("new/deep/" + "n" * 120, b"x"),
    Set("hole", mode=0o600),
    Append("block", b"more"),
    Link("hard3", "z/hard"),
    Remove(b"not-utf8-\xff\xfe"),
    File("capable-now", xattrs={"security.capability": CAPABILITY_2}),
)


def _top_layer(saved: Path) -> bytes:
    with tarfile.open(saved) as archive:
        manifest = archive.extractfile("manifest.json")
        assert manifest is not None
        layer = archive.extractfile(json.load(manifest)[0]["Layers"][-1])
        assert layer is not None
        return layer.read()


def _packed(tree: Path) -> Path:
    packed = tree.parent / "packed.tar"
    packed.write_bytes(docker_cp.golden(tree))
    return packed


def _masked(archive: bytes) -> bytes:
    """The archive with permissions only in its modes, without checksums and names of users and groups.

    And without link names of regular files: an overlay's whiteouts are links of one another, which shows so in what
    Docker makes of them.
    """
    masked = bytearray(archive)
    at = 0
    while at < len(masked) and masked[at : at + 512] != bytes(512):
        size = int(masked[at + 124 : at + 136].rstrip(b"\0 ") or b"0", 8)
        mode = int(masked[at + 100 : at + 108].rstrip(b"\0 ") or b"0", 8)
        masked[at + 100 : at + 108] = b"%07o\0" % (mode & 0o7777)
        masked[at + 148 : at + 156] = bytes(8)
        masked[at + 265 : at + 329] = bytes(64)
        if masked[at + 156 : at + 157] == b"0":
            masked[at + 157 : at + 257] = bytes(100)
        at += 512 + -(-size // 512) * 512
    return bytes(masked)
