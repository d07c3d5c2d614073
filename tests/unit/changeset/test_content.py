from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support.trees import Device, Dir, Fifo, File, Remove, Socket, Sparse, Symlink, make

from streamer.changeset import content
from streamer.changeset.change import Node
from streamer.changeset.content import (
    BLOCK,
    blocks,
    capability,
    extent_blocks,
    extents,
    link_target,
    open_regular,
    xattrs,
)
from streamer.errors import SourceChanged, SourceFailed, Unsupported

Open = Callable[[bytes], int]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def node(parent: int, name: bytes) -> Node:
    return Node(name, name, parent, os.stat(name, dir_fd=parent, follow_symlinks=False))


def test_a_file_is_opened_and_read_whole(base: bytes, opened: Open) -> None:
    data = bytes(range(256)) * 10_000
    make(base, File("f", data))
    fd = open_regular(node(opened(base), b"f"))
    try:
        got = list(blocks(fd, len(data)))
    finally:
        os.close(fd)
    assert b"".join(got) == data
    assert [len(block) for block in got] == [BLOCK, BLOCK, len(data) - 2 * BLOCK]


def test_reading_leaves_the_access_time(base: bytes, opened: Open) -> None:
    make(base, File("f", "x"))
    os.utime(os.path.join(base, b"f"), ns=(5, 10))
    fd = open_regular(node(opened(base), b"f"))
    assert list(blocks(fd, 1)) == [b"x"]
    os.close(fd)
    assert os.stat(os.path.join(base, b"f")).st_atime_ns == 5


@pytest.mark.parametrize("item", [Fifo("f"), Socket("f"), Symlink("f", "g"), Dir("f")])
def test_only_regular_files_are_opened(base: bytes, opened: Open, item: object) -> None:
    make(base, item)
    with pytest.raises(Unsupported):
        open_regular(node(opened(base), b"f"))


@pytest.mark.parametrize(
    "replacement",
    [File("f", "other"), Fifo("f"), Socket("f"), Symlink("f", "g"), Remove("f"), None],
    ids=lambda item: type(item).__name__,
)
def test_what_was_replaced_since_the_walk_is_refused(base: bytes, opened: Open, replacement: object) -> None:
    make(base, File("f", "old"), File("g", "old"))
    old = node(opened(base), b"f")
    holder = os.open(os.path.join(base, b"f"), os.O_RDONLY)  # keeps the inode number from being used again
    os.unlink(os.path.join(base, b"f"))
    make(base, Dir("f") if replacement is None else File("f"))
    if replacement is not None:
        make(base, replacement)
    with pytest.raises(SourceChanged, match=r"^'f' changed"):
        open_regular(old)
    os.close(holder)


@needs_root
def test_a_device_put_in_its_place_is_refused(base: bytes, opened: Open) -> None:
    make(base, File("f", "old"))
    old = node(opened(base), b"f")
    make(base, Device("f", 1, 5))
    with pytest.raises(SourceChanged):
        open_regular(old)


def test_a_file_that_grew_gives_its_first_bytes_one_that_shrank_fails(base: bytes) -> None:
    make(base, File("f", b"0123456789"))
    fd = os.open(os.path.join(base, b"f"), os.O_RDONLY)
    try:
        assert b"".join(blocks(fd, 4)) == b"0123"
        got = []
        with pytest.raises(SourceChanged, match=r"^'etc/f' changed while it was read: it ends at byte 10$"):
            for block in blocks(fd, 11, b"etc/f"):
                got.append(block)  # noqa: PERF402 - kept beside the error
        assert got == [b"0123456789"]
    finally:
        os.close(fd)


def test_no_bytes_of_an_empty_file(base: bytes) -> None:
    make(base, File("f"))
    fd = os.open(os.path.join(base, b"f"), os.O_RDONLY)
    assert list(blocks(fd, 0)) == []
    assert extents(fd, 0) is None
    os.close(fd)


HOLES = [
    (10 * BLOCK, {}),
    (10 * BLOCK, {0: b"a"}),
    (10 * BLOCK + 17, {10 * BLOCK + 10: b"end"}),
    (10 * BLOCK, {3 * BLOCK + 5: b"x" * 5000, 8 * BLOCK: b"y" * BLOCK}),
    (3 * BLOCK, {i * 16384: b"z" for i in range(100)}),
]


@pytest.mark.parametrize(("size", "data"), HOLES)
def test_holes_come_as_zeros_and_extents_as_data(
    base: bytes, monkeypatch: pytest.MonkeyPatch, size: int, data: dict[int, bytes]
) -> None:
    make(base, Sparse("f", size, data))
    path = os.path.join(base, b"f")
    with open(path, "rb") as file:
        whole = file.read()
    read = 0
    pread = os.pread

    def counting(fd: int, length: int, offset: int) -> bytes:
        nonlocal read
        block = pread(fd, length, offset)
        read += len(block)
        return block

    monkeypatch.setattr(content.os, "pread", counting)
    fd = os.open(path, os.O_RDONLY)
    try:
        assert b"".join(blocks(fd, size)) == whole
        assert read <= 3 * BLOCK
        found = extents(fd, size)
        assert found is not None
        assert all(o + n <= o2 for (o, n), (o2, _) in itertools.pairwise(found))
        rebuilt = bytearray(size)
        stored = b"".join(extent_blocks(fd, found))
        for offset, length in found:
            rebuilt[offset : offset + length], stored = stored[:length], stored[length:]
        assert not stored
        assert rebuilt == whole
    finally:
        os.close(fd)


def test_an_empty_terabyte_is_found_at_once_and_read_never(base: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    size = 1 << 40
    make(base, Sparse("f", size))
    fd = os.open(os.path.join(base, b"f"), os.O_RDONLY)
    monkeypatch.setattr(content.os, "pread", None)
    try:
        assert extents(fd, size) == ()
        zeros = blocks(fd, size)
        first = next(zeros)
        assert all(next(zeros) is first for _ in range(1000))
        zeros.close()
    finally:
        os.close(fd)


def test_a_hole_that_is_cut_off_is_no_hole(base: bytes) -> None:
    size = 5 * BLOCK
    make(base, Sparse("f", size))
    fd = os.open(os.path.join(base, b"f"), os.O_RDONLY)
    try:
        zeros = blocks(fd, size, b"f")
        next(zeros)
        os.truncate(os.path.join(base, b"f"), BLOCK)
        with pytest.raises(SourceChanged):
            list(zeros)
    finally:
        os.close(fd)


def test_a_full_file_has_no_extents(base: bytes) -> None:
    make(base, File("f", os.urandom(100_000)))
    fd = os.open(os.path.join(base, b"f"), os.O_RDONLY)
    assert extents(fd, 100_000) is None
    os.close(fd)


def test_link_targets_are_verbatim(base: bytes, opened: Open) -> None:
    make(base, Symlink("s", b"../\xff//x/"), Symlink("t", "y"))
    root = opened(base)
    assert link_target(node(root, b"s")) == b"../\xff//x/"
    old = node(root, b"t")
    make(base, File("t"))
    with pytest.raises(SourceChanged):
        link_target(old)


CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")


@needs_root
def test_capability_with_and_without_a_descriptor(base: bytes, opened: Open) -> None:
    make(base, File("f", xattrs={"security.capability": CAPABILITY, "user.x": b"1"}), File("g"), Symlink("s", "f"))
    root = opened(base)
    assert capability(node(root, b"f")) == CAPABILITY
    assert capability(node(root, b"g")) is None
    assert capability(node(root, b"s")) is None
    with open(os.path.join(base, b"f"), "rb") as file:
        assert capability(node(root, b"f"), file.fileno()) == CAPABILITY


@needs_root
def test_xattrs_come_without_overlay_marks_and_unescaped(base: bytes, opened: Open) -> None:
    marks = {
        "trusted.overlay.opaque": b"y",
        "user.overlay.redirect": b"/x",
        "trusted.overlay.overlay.opaque": b"inner",
        "user.overlay.overlay.x": b"u",
        "user.z": b"\0\xff",
        "security.capability": CAPABILITY,
    }
    make(base, File("f", xattrs=marks), Symlink("s", "f", xattrs={"trusted.t": b"link"}))
    root = opened(base)
    assert xattrs(node(root, b"f")) == {
        b"security.capability": CAPABILITY,
        b"trusted.overlay.opaque": b"inner",
        b"user.overlay.x": b"u",
        b"user.z": b"\0\xff",
    }
    assert list(xattrs(node(root, b"f"))) == sorted(xattrs(node(root, b"f")))
    assert xattrs(node(root, b"s")) == {b"trusted.t": b"link"}


@needs_root
def test_more_xattrs_than_the_kernel_lists(opened: Open) -> None:
    """Tmpfs takes more names than listxattr can tell; leaving them out silently would be wrong."""
    path = Path("/dev/shm") / f"streamer-xattrs-{os.getpid()}"
    path.mkdir()
    try:
        make(str(path), File("f", xattrs={"security.capability": CAPABILITY}))
        for i in range(400):
            os.setxattr(path / "f", "trusted." + f"{i:03}".ljust(240, "x"), b"")
        root = opened(os.fsencode(path))
        with pytest.raises(SourceFailed, match=r"^could not read 'f'"):
            xattrs(node(root, b"f"))
        assert capability(node(root, b"f")) == CAPABILITY
    finally:
        subprocess.run(["rm", "-rf", path], check=True)


def test_a_node_that_is_gone_has_changed(base: bytes, opened: Open) -> None:
    make(base, File("f"))
    old = node(opened(base), b"f")
    make(base, Remove("f"))
    for read in (capability, xattrs, open_regular):
        with pytest.raises(SourceChanged):
            read(old)
