"""Numbers in attributes as a container's processes see them."""

from __future__ import annotations

import io
import os
import struct
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from support.stores import DirectoryStore

from streamer.export.container import plan_container
from streamer.export.exporter import exporter
from streamer.export.numbering import acl, capability, numbered
from streamer.export.plan import Options
from streamer.mounts.mount import Ids
from streamer.tar.entry import Profile

IDS = Ids(users=((0, 1000, 1), (1, 100000, 65536)), groups=((0, 2000, 1), (1, 200000, 65536)))
V2 = struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0)


def v3(root: int) -> bytes:
    return struct.pack("<6I", 0x03000001, 1 << 13, 0, 0, 0, root)


def entries(*found: tuple[int, int, int]) -> bytes:
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *one) for one in found)


OTHERS = ((0x01, 6, 0xFFFFFFFF), (0x04, 4, 0xFFFFFFFF), (0x10, 7, 0xFFFFFFFF), (0x20, 4, 0xFFFFFFFF))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (v3(1000), V2),
        (v3(100005), None),  # of a namespace inside the container
        (v3(0), None),
        (v3(7), None),
        (V2, V2),
        (b"", b""),
        (b"\0" * 24, b"\0" * 24),
    ],
)
def test_capabilities(value: bytes, expected: bytes | None) -> None:
    assert capability(value, IDS) == expected
    name = b"security.capability"
    assert numbered({name: value, b"user.x": b"1"}, IDS) == {b"user.x": b"1"} | (
        {name: expected} if expected is not None else {}
    )


def test_access_control_lists() -> None:
    given = entries(*OTHERS, (0x02, 7, 1000), (0x02, 5, 100004), (0x02, 7, 55), (0x08, 7, 200000), (0x08, 7, 100004))
    assert acl(given, IDS) == entries(*OTHERS, (0x02, 7, 0), (0x02, 5, 5), (0x08, 7, 1))


@pytest.mark.parametrize("value", [b"", b"\2\0", b"\3\0\0\0" + b"x" * 8, entries() + b"x"])
def test_what_is_no_list_stays(value: bytes) -> None:
    assert acl(value, IDS) == value


@pytest.mark.root
@pytest.mark.parametrize("profile", Profile)
async def test_in_an_archive(tmp_path: Path, profile: Profile) -> None:
    for name, root in (("mine", 1000), ("theirs", 5)):
        (tmp_path / name).write_text(name)
        os.chown(tmp_path / name, 1000, 200004)
        os.setxattr(tmp_path / name, "security.capability", v3(root))
    os.setxattr(tmp_path / "mine", "system.posix_acl_access", entries(OTHERS[0], (0x02, 5, 100004), *OTHERS[1:]))
    box = DirectoryStore().add("box", tmp_path)
    box = replace(box, snapshot=replace(box.snapshot, ids=IDS))
    async with exporter() as exports, exports.open(plan_container(box, Options(profile=profile))) as stream:
        archive = b"".join([chunk async for chunk in stream])
    with tarfile.open(fileobj=io.BytesIO(archive)) as members:
        mine, theirs = members.getmember("mine"), members.getmember("theirs")
    assert (mine.uid, mine.gid) == (0, 5)
    found = mine.pax_headers["SCHILY.xattr.security.capability"]
    assert found.encode("utf-8", "surrogateescape") == V2
    assert not any("capability" in name for name in theirs.pax_headers)
    if profile is Profile.FULL:
        assert mine.pax_headers["SCHILY.acl.access"] == "user::rw-,user:5:r-x,group::r--,mask::rwx,other::r--"
