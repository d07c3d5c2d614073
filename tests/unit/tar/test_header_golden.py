"""`Profile.DOCKER` against the real go-archive writer, whole archives byte for byte.

The docker command is the writer (`support.docker_cp`); what is compared is everything: headers, content, padding, end.
"""

from __future__ import annotations

import os
import socket
import stat
import struct
from collections.abc import Callable, Iterator

import pytest
from support import docker_cp

from streamer.tar.entry import BLOCK, CHAR, DIRECTORY, FIFO, LINK, REGULAR, SYMLINK, Entry, Member, Profile
from streamer.tar.writer import archive

pytestmark = [
    pytest.mark.engine,
    docker_cp.needed,
]
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: owners, devices, capabilities")

TYPES = {
    stat.S_IFREG: REGULAR,
    stat.S_IFDIR: DIRECTORY,
    stat.S_IFLNK: SYMLINK,
    stat.S_IFIFO: FIFO,
    stat.S_IFCHR: CHAR,
    stat.S_IFBLK: BLOCK,
}


def members(path: bytes, name: bytes, seen: dict[int, bytes]) -> Iterator[Member]:
    """go-archive's own rules in few lines: walk order, hard links by inode, sockets left out."""
    status = os.lstat(path)
    kind = TYPES.get(stat.S_IFMT(status.st_mode))
    if kind is None:
        return
    entry = Entry(
        name + b"/" if kind == DIRECTORY else name,
        kind,
        status.st_mode & 0o7777,
        status.st_uid,
        status.st_gid,
        mtime=status.st_mtime_ns,
    )
    if kind in (CHAR, BLOCK):
        entry.devmajor, entry.devminor = os.major(status.st_rdev), os.minor(status.st_rdev)
    if kind == SYMLINK:
        entry.linkname = os.readlink(path)
    entry.xattrs = {key.encode(): os.getxattr(path, key, follow_symlinks=False) for key in xattr_names(path)}
    content = None
    if kind != DIRECTORY and status.st_nlink > 1 and status.st_ino in seen:
        entry.type, entry.linkname = LINK, seen[status.st_ino]
    else:
        seen[status.st_ino] = name
        if kind == REGULAR:
            with open(path, "rb") as file:
                content = file.read()
            entry.size = len(content)
    yield entry, content
    if kind == DIRECTORY:
        for child in sorted(os.listdir(path)):
            yield from members(os.path.join(path, child), name + b"/" + child, seen)


def xattr_names(path: bytes) -> list[str]:
    return os.listxattr(path, follow_symlinks=False)


def put(
    root: bytes, name: bytes, content: bytes = b"x", *, mode: int = 0o644, seconds: float = 1_600_000_000.75
) -> bytes:
    path = os.path.join(root, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(content)
    os.chmod(path, mode)
    os.utime(path, (seconds, seconds))
    return path


def short_names(root: bytes) -> None:
    put(root, b"a", b"")
    put(root, b"b", b"1" * 512)
    put(root, b"c/d", b"2" * 513)
    put(root, b"large", bytes(range(256)) * 4096)
    put(root, b"setuid", mode=0o4755)
    put(root, b"setgid-sticky", mode=0o3711)
    put(root, b"none", mode=0)
    put(root, b"new\nline \t\\ -\x7f")
    os.mkdir(os.path.join(root, b"empty"), 0o1777)
    os.chmod(os.path.join(root, b"empty"), 0o1777)


def lengths_around_every_limit(root: bytes) -> None:
    for size in (97, 98, 99, 100, 101, 102, 154, 155, 156, 200, 255):
        put(root, b"n" * size)
        put(root, b"d/" + b"n" * size)
        os.makedirs(os.path.join(root, b"dirs", b"m" * size))
    for first in (50, 98, 99, 100, 101, 150, 151, 152, 153, 154, 155, 156, 200):
        for second in (1, 50, 98, 99, 100, 101):
            put(root, b"p" * first + b"/" + b"s" * second)
            os.makedirs(os.path.join(root, b"q" * first, b"t" * second))
    put(root, b"/".join([b"deep" * 10] * 7))
    put(root, b"/".join([b"deeper" * 10] * 20))


def bytes_beyond_ascii(root: bytes) -> None:
    for name in (
        "ünï".encode(),
        "日本語/ファイル".encode(),
        b"bad\xff",
        b"\xff",
        b"\xff\xfe/\xfd",
        b"\xc3(dir/x\xa0y",
        "é".encode() * 60,
        b"a" * 99 + "é".encode() + b"b" * 40,
        b"a" * 90 + b"/" + "é".encode() * 30 + b"/c",
        b"cut-at-slash" * 8 + b"\xff\xff\xff/" + b"z" * 101,
    ):
        put(root, name)


def slash_at_the_cut(root: bytes) -> None:
    # 100 kept bytes of the main header's name end in a slash: Go writes NUL in its place.
    for dots in (2, 7):
        put(root, b"k" * (99 - dots) + b"/" + b"u" * 101)
        put(root, b"k" * (98 - dots) + b"/\xff/" + b"u" * 101)


def links(root: bytes) -> None:
    target = put(root, b"first", b"linked")
    os.mkdir(os.path.join(root, b"z"))
    os.link(target, os.path.join(root, b"second"))
    os.link(target, os.path.join(root, b"z", b"t" * 120))
    long = put(root, b"L" * 110, b"long first name")
    os.link(long, os.path.join(root, b"M"))
    odd = put(root, "ø".encode(), b"odd first name")
    os.link(odd, os.path.join(root, b"ord"))
    for number, link in enumerate(
        (b"first", b"/abs", b"../../up", b"x" * 100, b"x" * 101, b"y/" * 200, "é".encode(), b"\xff\n", b"trailing/")
    ):
        os.symlink(link, os.path.join(root, b"s%d" % number))
    os.symlink(b"x" * 130, os.path.join(root, b"S" * 130))


def times(root: bytes) -> None:
    for number, seconds in enumerate((0, 0.25, 1, -0.5, -1, -5, -1.5, -(2**31), 2**31, 2**32 + 0.5, 2**33 - 1, 2**33)):
        put(root, b"%d" % number, seconds=seconds)
        put(root, b"%d-" % number + b"w" * 110, seconds=seconds)


def owners(root: bytes) -> None:
    for number, (uid, gid) in enumerate(
        ((1, 2), (2097151, 2097151), (2097152, 0), (0, 2097152), (3000000, 4294967294), (65534, 65534))
    ):
        path = put(root, b"%d" % number)
        os.chown(path, uid, gid)
        # A long name that could be split: with another PAX record it gets one as well.
        path = put(root, b"d" * 80 + b"/" + b"e" * 80 + b"%d" % number)
        os.chown(path, uid, gid)
    os.makedirs(os.path.join(root, b"v" * 80, b"w" * 80))
    os.chown(os.path.join(root, b"v" * 80, b"w" * 80), 3000000, 3000000)


def devices(root: bytes) -> None:
    for name, kind, major, minor in (
        (b"null", stat.S_IFCHR, 1, 3),
        (b"whiteout-like", stat.S_IFCHR, 0, 0),
        (b"big", stat.S_IFCHR, 300, 1000),
        (b"biggest", stat.S_IFBLK, 4095, 1048575),
        (b"e" * 101, stat.S_IFBLK, 7, 0),
    ):
        os.mknod(os.path.join(root, name), kind | 0o660, os.makedev(major, minor))
    os.mkfifo(os.path.join(root, b"fifo"), 0o600)
    os.link(os.path.join(root, b"fifo"), os.path.join(root, b"fifo2"))
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.getcwd()
        os.chdir(root)
        try:
            listener.bind("socket")
        finally:
            os.chdir(here)


def capabilities(root: bytes) -> None:
    second = struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0)
    third = struct.pack("<6I", 0x03000001, 1 << 13, 0, 0, 0, 1000)
    for name, value in ((b"v2", second), (b"v3", third), (b"c" * 120, second), ("ç".encode(), second)):
        os.setxattr(put(root, name), "security.capability", value)
    other = put(root, b"ignored")
    os.setxattr(other, "user.color", b"blue")
    os.setxattr(other, "trusted.secret", b"\0")


TREES: list[Callable[[bytes], None]] = [
    short_names,
    lengths_around_every_limit,
    bytes_beyond_ascii,
    slash_at_the_cut,
    links,
    times,
]
ROOT_TREES = [owners, devices, capabilities]


@pytest.mark.parametrize(
    "build",
    [*TREES, *(pytest.param(tree, marks=as_root) for tree in ROOT_TREES)],
    ids=lambda build: build.__name__,
)
@pytest.mark.parametrize("contents", [True, False], ids=["dot", "named"])
def test_same_bytes_as_docker(build: Callable[[bytes], None], contents: bool, tmp_path: os.PathLike[str]) -> None:
    root = os.path.join(os.fsencode(tmp_path), b"r")
    os.mkdir(root)
    build(root)
    expected = docker_cp.golden(root, contents=contents)
    given = b"".join(archive(members(root, b"." if contents else b"r", {}), Profile.DOCKER))
    if given != expected:  # pytest's own diff of megabytes takes for ever
        at = next(i for i, (a, b) in enumerate(zip(given, expected, strict=False)) if a != b)
        block = at // 512 * 512
        assert given[block : block + 512] == expected[block : block + 512], f"first difference at byte {at}"
    assert len(given) == len(expected)
