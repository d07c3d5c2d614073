"""A tree with every kind of entry that an archive can hold, at every limit of the formats."""

from __future__ import annotations

import struct

from support.trees import Device, Dir, Fifo, File, Link, Socket, Sparse, Symlink

SECOND = 1_000_000_000

CAPABILITY_2 = struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0)
CAPABILITY_3 = struct.pack("<6I", 0x03000001, 1 << 13, 0, 0, 0, 0)

KINDS: tuple[object, ...] = (
    File("a-empty"),
    File("block", b"1" * 512),
    File("block-and-one", b"2" * 513),
    File("large", bytes(range(256)) * 5000),
    File("setuid", b"#!", mode=0o4755),
    File("setgid-sticky", b"#!", mode=0o3711),
    File("nobody-may", b"secret", mode=0),
    Dir("tmp", mode=0o1777),
    Dir("tmp-", File("after tmp and all in it"), owner=(33, 33)),
    Dir("tmp", File("inside"), mode=0o1777),
    Dir("dev", Device("null", 1, 3, mode=0o666), Device("sda", 8, 0, block=True, mode=0o660, owner=(0, 6))),
    Device("dev/large-numbers", 300, 70000),
    Fifo("run/fifo", mode=0o620),
    Socket("run/socket"),
    Symlink("link", "large"),
    Symlink("dangling", "/nowhere/at all"),
    Symlink("up", "../../../etc/passwd"),
    Symlink("long-link", "t/" * 90),
    Link("z/hard", "large"),
    Link("z/hard2", "large"),
    Link("hard-link-of-a-link", "link"),
    Link("hard-fifo", "run/fifo"),
    Link("hard-device", "dev/large-numbers"),
    File("capable", b"x", xattrs={"security.capability": CAPABILITY_2}),
    Sparse("sparse", 3 << 20, {0: b"first", 1 << 20: b"middle", (3 << 20) - 4: b"last"}),
    Sparse("hole", 1 << 20),
)

NAMES: tuple[object, ...] = (
    *(File(b"n" * length, b"x") for length in (99, 100, 101, 255)),
    *(Dir(b"m" * length, File(b"s" * 100)) for length in (54, 55, 99, 100, 154, 155, 156)),
    File("/".join(["deep"] * 80), "x"),
    File(" leading and trailing ", "x"),
    File("new\nline \t\\ \"quoted\" 'too' *?[", "x"),
    File("Übermut/日本語/ファイル", "x"),
    File(b"not-utf8-\xff\xfe/\xfd", b"x"),
    Symlink("non-ascii-link", "Übermut/日本語"),
    Link("é" * 70, "Übermut/日本語/ファイル"),
    Link(b"hard-" + b"h" * 110, b"n" * 255),
)

LIMITS: tuple[object, ...] = (
    *(File(f"owner{uid}", "x", owner=(uid, gid)) for uid, gid in ((2097151, 2097151), (2097152, 0), (0, 4294967294))),
    *(
        File(f"time{number}", "x", mtime=nanoseconds)
        for number, nanoseconds in enumerate((0, 1, SECOND - 1, -1, -5 * SECOND, 2**33 * SECOND - 1, 2**33 * SECOND))
    ),
    Dir("owned/" + "o" * 100, File("x" * 100, owner=(3000000, 3000000)), owner=(3000000, 0)),
)

EVERYTHING: tuple[object, ...] = (*KINDS, *NAMES, *LIMITS)
