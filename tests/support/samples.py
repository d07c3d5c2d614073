"""Two images that share their lower layers and hold everything a layer can: for tests that pass images around."""

from __future__ import annotations

import tarfile
from pathlib import Path

from support.everything import CAPABILITY_2
from support.images import (
    MadeImage,
    Member,
    directory,
    file,
    image,
    layer,
    link,
    node,
    opaque,
    symlink,
    whiteout,
)

ONE, ONE_ELSEWHERE, ONE_TOO, TWO = (
    "docker.io/library/one:1",
    "example.org:5000/team/one:v2",
    "docker.io/library/one:b",
    "docker.io/u/two:latest",
)
LONG = "long/" + "component-of-a-path/" * 9
CAPABLE = {"SCHILY.xattr.security.capability": CAPABILITY_2.decode("ascii")}


def _base() -> bytes:
    program = Path("/bin/busybox").read_bytes() if Path("/bin/busybox").exists() else b"program" * 50_000
    long = [directory("/".join(LONG.split("/")[:depth]) + "/") for depth in range(1, LONG.count("/") + 1)]
    return layer(
        directory("bin/"),
        file("bin/busybox", program, mode=0o755),
        link("bin/sh", "bin/busybox", mode=0o755),
        file("bin/ping", b"#!ping", mode=0o755, pax_headers=CAPABLE),
        file("bin/su", b"#!su", mode=0o4755),
        directory("dev/"),
        node("dev/null"),
        node("dev/disk", tarfile.BLKTYPE, 259, 70000),
        directory("etc/", mtime=1_600_000_000),
        file("etc/passwd", b"root:x:0:0::/:/bin/sh\n"),
        file("etc/shadow", b"", mode=0, uid=0, gid=42),
        symlink("etc/alternatives", "../opt"),
        directory("home/", mode=0o700, uid=1000, gid=1000),
        file("home/.profile", b"x", uid=1000, gid=1000, mtime=1_234_567_890.5),
        file("home/large-owner", b"x", uid=3_000_000, gid=4_294_967_294),
        *long,
        file(LONG + "f" * 150, b"at the end of a long path"),
        symlink(LONG + "link", "t/" * 80),
        directory("opt/"),
        directory("opt/emptied/"),
        file("opt/emptied/a", b"a"),
        directory("opt/emptied/sub/"),
        file("opt/emptied/sub/b", b"b"),
        file("opt/gone", b"gone"),
        directory("opt/gone-too/"),
        file("opt/gone-too/c", b"c"),
        file("opt/becomes-a-directory", b"file"),
        directory("opt/becomes-a-file/"),
        file("opt/becomes-a-file/d", b"d"),
        file("opt/linked-1", b"two names"),
        link("opt/linked-2", "opt/linked-1"),
        file("opt/empty"),
        directory("run/"),
        node("run/fifo", tarfile.FIFOTYPE, 0, 0),
        directory("tmp/", mode=0o1777),
        directory("Übermut/"),
        file("Übermut/日本語 ファイル", b"Inhalt"),
        file("Übermut/not-utf8-\udcff\udcfe", b"bytes"),
        directory("z" * 120 + "/"),
        file("z" * 120 + "/" + "y" * 120, b"split names"),
    )


def _middle() -> bytes:
    return layer(
        directory("etc/", mtime=1_650_000_000),
        file("etc/passwd", b"root:x:0:0::/:/bin/sh\nuser:x:1000:1000::/home:/bin/sh\n"),
        directory("opt/", mode=0o750, gid=5),
        opaque("opt/emptied"),
        directory("opt/emptied/"),
        file("opt/emptied/new", b"only this"),
        whiteout("opt/gone"),
        whiteout("opt/gone-too"),
        directory("opt/becomes-a-directory/"),
        file("opt/becomes-a-directory/now", b"x"),
        file("opt/becomes-a-file", b"now a file"),
        file("opt/linked-2", b"a name of its own"),
    )


def _top(*members: Member) -> bytes:
    return layer(
        directory("opt/", mode=0o755, gid=6),
        file("opt/gone", b"back again"),
        whiteout("opt/becomes-a-file"),
        directory("bin/"),
        whiteout("bin/sh"),
        *members,
    )


def images() -> tuple[MadeImage, MadeImage]:
    """The first has three names in two repositories, the second one; two of their three layers are the same."""
    base, middle = _base(), _middle()
    one = image(base, middle, _top(file("opt/which", b"one")), names=[ONE, ONE_ELSEWHERE, ONE_TOO])
    two = image(base, middle, _top(file("opt/which", b"two"), directory("new/")), names=[TWO])
    return one, two
