"""One file system with every kind of entry, and changes to it as a program inside of a container makes them."""

from __future__ import annotations

import os
from pathlib import Path

from support.everything import CAPABILITY_2, CAPABILITY_3, KINDS, NAMES
from support.images import directory, file, layer, link, opaque, whiteout
from support.trees import Device, Dir, Fifo, File, Link, Sparse, Symlink

APPLETS = ("sh", "cat", "chgrp", "chmod", "chown", "cp", "echo", "ln", "mkdir", "mkfifo", "mknod", "mv", "rm", "sleep")
APPLETS += ("touch", "truncate", "printf", "sed", "test")

_LARGE = bytes(range(256)) * 520  # more than what is read at once

TREE: tuple[object, ...] = (
    File("bin/busybox", Path("/bin/busybox").read_bytes() if os.path.exists("/bin/busybox") else b"", mode=0o755),
    *(Link(f"bin/{name}", "bin/busybox") for name in APPLETS),
    *(File("etc/passwd", "root:x:0:0::/:/bin/sh\nfamous:x:1234:5678::/:/bin/sh\n"), File("etc/group", "root:x:0:\n")),
    Dir("everything", *(item for item in KINDS if not isinstance(item, Link | Sparse))),
    Dir("names", *(item for item in NAMES if not isinstance(item, Link))),
    *(Link("everything/hard", "everything/large"), Link("everything/hard-link-of-a-link", "everything/link")),
    *(Link("everything/hard-fifo", "everything/run/fifo"), Link("a-hard-name-elsewhere", "everything/large")),
    Dir("gone", File("file", "x"), Dir("directory", File("below", "x"), Dir("deeper", File("deepest")))),
    Dir("opaque", File("old", "old"), Dir("kept-name", File("old", "old")), Dir("sub", Dir("sub", File("old")))),
    Dir("opaque-link", File("old", "old"), Symlink("link", "old")),
    Dir(
        "types",
        *(File("file-directory", "f"), File("file-link", "f"), File("file-device", "f"), File("file-fifo", "f")),
        *(Dir("directory-file", File("below", "x")), Dir("directory-link", File("below", "x"))),
        *(Symlink("link-file", "/etc/passwd"), Symlink("link-directory", "/opaque"), Fifo("fifo-file")),
        *(Device("device-file", 1, 3), Fifo("fifo-directory"), Dir("same", File("below", "x"))),
    ),
    Dir(
        "renamed",
        *(Dir("whole", File("file", _LARGE), Dir("deep", File("deepest", "x")), Symlink("link", "file"), mode=0o750),),
        *(Dir("replaced", File("first", "first"), Dir("deep", File("x", "x"))), Dir("twice", File("file", "twice"))),
        *(Dir("and-changed", File("changed", "x"), File("deleted", "x"), File("kept", "x"), Dir("d", File("x", "x"))),),
        *(Dir("swapped-1", File("one", "1")), Dir("swapped-2", File("two", "2")), Dir("outward", File("file", "out"))),
        *(File("file", _LARGE), File("chmod-and-renamed", _LARGE), Dir("emptied-name", File("x", "x"))),
    ),
    Dir("links", *(File(name, f"links {name}" * 100) for name in ("one", "three", "five", "seven", "nine"))),
    *(Link(f"links/{new}", f"links/{old}") for new, old in (("two", "one"), ("four", "three"), ("six", "five"))),
    *(Link(f"links/{new}", f"links/{old}") for new, old in (("eight", "seven"), ("ten", "nine"), ("eleven", "nine"))),
    Dir(
        "attributes",
        *(File("mode", _LARGE), File("owner", _LARGE, mode=0o4755), File("time", _LARGE), File("all", _LARGE)),
        *(Dir("directory", File("below", "x")), Symlink("link", "mode"), Sparse("sparse", 1 << 20, {500_000: b"x"})),
        *(File("capable", _LARGE, xattrs={"security.capability": CAPABILITY_2}), File("appended", _LARGE)),
        *(File("capable-kept", "x", xattrs={"security.capability": CAPABILITY_3}), File("becomes-capable", _LARGE)),
        *(File("truncated", _LARGE), File("same-content", "same"), Fifo("fifo"), Device("device", 8, 1, block=True)),
    ),
    *(Dir("two", Dir("layers", File("lower", "lower"), Dir("down", File("lower", "x"))), File("rewritten", "1")),),
    *(Dir("two/whited-out", File("x", "x")), Dir("two/moved-by-build", File("x", _LARGE)), File("two/removed", "x")),
    *(Dir("dev"), Dir("root", mode=0o700)),
    Dir("tmp", mode=0o1777),
)
"""Beside every kind of entry, something for each of the changes."""

BUILD = """
set -e
cd /two
echo 2 > rewritten
echo upper > layers/upper
rm -r whited-out removed
mv moved-by-build moved
mkdir whited-out
chmod 700 layers/down
ln layers/upper layers/linked
"""
"""A step of a build on `TREE`, so that what is changed lies in several layers."""

CHANGES = """
set -e
umask 022
cd /
rm gone/file
rm -r gone/directory
rm a-hard-name-elsewhere
rm 'names/ leading and trailing '
rm -r names/deep

rm -r opaque
mkdir -m 2775 opaque
chown 7:8 opaque
mkdir opaque/kept-name opaque/empty
echo new > opaque/new
rm -r opaque-link
mkdir opaque-link
ln -s new opaque-link/link

cd /types
rm file-directory; mkdir file-directory; echo x > file-directory/x
rm file-link; ln -s directory-file file-link
rm file-device; mknod file-device c 1 9
rm file-fifo; mkfifo file-fifo
rm -r directory-file; echo file > directory-file
rm -r directory-link; ln -s /gone directory-link
rm link-file; echo file > link-file
rm link-directory; mkdir link-directory; echo x > link-directory/x
rm fifo-file; echo file > fifo-file
rm device-file; echo file > device-file
rm fifo-directory; mkdir -m 700 fifo-directory
rm -r same; mkdir same

cd /renamed
mv whole whole-moved
mv replaced was-replaced; mkdir replaced; echo second > replaced/second
mv twice once; mv once again
mv and-changed changed; echo y >> changed/changed; rm changed/deleted; echo n > changed/new; chmod 700 changed/d
mv swapped-1 swapped; mv swapped-2 swapped-1; mv swapped swapped-2
mv outward /outside
mkdir into; mv emptied-name into/
mv file file-moved
chmod 4711 chmod-and-renamed; mv chmod-and-renamed chmodded

cd /links
echo changed >> one
ln three another-three
rm five
chmod 600 seven
mv nine nine-moved
echo l > l1; ln l1 l2; ln l1 l3

cd /attributes
chmod 640 mode
chown 12:34 owner
touch -d '2001-02-03 04:05:06' time
chown 1234:5678 all; chmod 4755 all; touch -d '2002-03-04 05:06:07' all
chmod 2711 directory
chown -h 5:6 link
chmod 600 sparse
chmod 700 capable-kept
chown 9:9 fifo device
echo appended >> appended
truncate -s 100 truncated
printf same > same-content

cd /two
rm -r layers/down
echo again > removed
rm rewritten
echo x > moved/x
echo x > whited-out/x
mkdir -p /new/deep/er
echo new > /new/deep/er/file
mknod /new/char c 1 5; mknod -m 640 /new/block b 300 70000; mkfifo -m 622 /new/fifo
echo s > /new/setuid; chmod 6755 /new/setuid
mkdir -m 1777 /new/tmp; mkdir /new/empty
ln -s ../nowhere /new/dangling
echo odd > "/new/$(printf 'odd \\n\\t \\351\\377')"
echo wh > /new/.not.wh.
"""
"""Changes of every kind, for busybox's shell: deletions, directories made anew (opaque), other types, directories
renamed, hard links across a copy-up, attributes alone, new files of every type."""

CAPABLE = ("attributes/becomes-capable", "attributes/capable", "new/setuid")
"""Files that get other capabilities, with content that only the first two had before."""

STEP = layer(
    *(directory("two/"), file("two/rewritten", b"2\n"), whiteout("two/removed"), whiteout("two/moved-by-build")),
    *(directory("two/layers/"), file("two/layers/upper", b"upper\n"), link("two/layers/linked", "two/layers/upper")),
    *(directory("two/layers/down/", mode=0o700), directory("two/whited-out/"), opaque("two/whited-out")),
    *(directory("two/moved/"), file("two/moved/x", b"x" * 200_000), directory("added/"), file("added/file", b"added")),
)
"""What `BUILD` would make, for an engine that builds nothing."""
