"""GNU tar, bsdtar and Python's tarfile read exactly the entries that a tree has, and unpack the same tree again."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from support import exports, trees
from support.archives import READERS, entries, records, same_tree, unpacked
from support.engines import needs
from support.everything import EVERYTHING, KINDS, SECOND
from support.trees import Dir, File, Sparse

from streamer.export.container import plan_container
from streamer.export.plan import Options
from streamer.tar.entry import Profile

pytestmark = [pytest.mark.engine, pytest.mark.root]

NOT_IN_TAR = (b"run/socket",)
NO_TIMES_OF_LINKS = (b"dangling", b"hard-link-of-a-link", b"link", b"long-link", b"non-ascii-link", b"up")
"""tarfile does not restore them."""
FULL_ONLY = (
    File("attributes", b"x", xattrs={"user.plain": b"1", "user.binary=%\n": bytes(range(256)), "trusted.t": b""}),
    Dir("attributes-of-a-directory", xattrs={"user.d": b"2"}),
    Sparse("holes", 64 << 20, {n << 20: b"%d" % n for n in range(0, 64, 3)}),
    Sparse("holes-" + "h" * 200, 8 << 20, {4 << 20: b"a long name that is sparse, too"}),
)
# Without a charset of names, which go-archive never writes, bsdtar takes them for UTF-8.
NOT_UTF8 = (b"not-utf8-\xff\xfe",)
NOT_A_FLOAT = (b"time5",)
MINUS_A_NANOSECOND = (b"time3",)
"""libarchive reads -0.000000001 as the nanosecond after 0."""


async def exported(place: Path, profile: Profile) -> bytes:
    return await exports.body(plan_container(exports.container(place), Options(profile=profile)))


def _without_names_that_are_not_utf8(root: Path) -> None:
    for name in NOT_UTF8:
        trees.erase(os.path.join(bytes(root), name))


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("profile", list(Profile))
async def test_entries(reader: str, profile: Profile, tmp_path: Path) -> None:
    root = tmp_path / "root"
    trees.make(root, *EVERYTHING, *FULL_ONLY)
    if profile is Profile.DOCKER and reader == "bsdtar":
        _without_names_that_are_not_utf8(root)
    archive = await exported(root, profile)
    assert entries(archive, reader) == records(root, first=b"./" if profile is Profile.FULL else None)


@pytest.mark.parametrize("reader", READERS)
async def test_profile_docker_unpacks_to_the_same_tree(reader: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    trees.make(root, *EVERYTHING)
    if reader == "bsdtar":
        _without_names_that_are_not_utf8(root)
    again = unpacked(await exported(root, Profile.DOCKER), tmp_path / "again", reader)
    python = reader == "tarfile"
    same_tree(
        again,
        root,
        seconds=True,
        xattrs=lambda name: name == "security.capability" and not python,
        without=NOT_IN_TAR,
        untimed=NO_TIMES_OF_LINKS if python else (),
    )


@pytest.mark.parametrize("reader", READERS)
async def test_profile_full_unpacks_to_the_same_tree(reader: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    trees.make(root, *EVERYTHING, *FULL_ONLY)
    again = unpacked(await exported(root, Profile.FULL), tmp_path / "again", reader)
    python, bsdtar = reader == "tarfile", reader == "bsdtar"
    same_tree(
        again,
        root,
        seconds=python,  # times are floats there
        # bsdtar takes the escapes of = and % in names of SCHILY.xattr, as GNU tar has them, for the names themselves.
        xattrs=lambda name: not python and not (bsdtar and ("=" in name or "%" in name)),
        without=NOT_IN_TAR,
        untimed=[*NO_TIMES_OF_LINKS, *NOT_A_FLOAT] if python else MINUS_A_NANOSECOND if bsdtar else (),
    )
    if not python:  # which writes zeros
        for name in ("holes", "hole", "holes-" + "h" * 200):
            assert (again / name).stat().st_blocks <= 2 * (root / name).stat().st_blocks + 64


async def test_profile_full_keeps_acls(tmp_path: Path) -> None:
    needs("setfacl", "getfacl")
    root = tmp_path / "root"
    trees.make(root, Dir("d", File("f", b"x")))
    subprocess.run(["setfacl", "-m", "u:1234:rw,d:u:77:x", root / "d"], check=True)
    subprocess.run(["setfacl", "-m", "u:4321:r", root / "d/f"], check=True)
    again = unpacked(await exported(root, Profile.FULL), tmp_path / "again")
    same_tree(again, root)
    listed = [subprocess.check_output(["getfacl", "-Rn", "."], cwd=place) for place in (again, root)]
    assert b"user:4321:r--" in listed[0]
    assert listed[0] == listed[1]


@pytest.mark.parametrize(
    "command",
    [
        ["tar", "--acls", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf", "-"],
        ["tar", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf", "-"],
        ["bsdtar", "--numeric-owner", "-xpf", "-"],
    ],
    ids=lambda command: " ".join(command[:3]),
)
async def test_acls_are_restored_however_they_are_asked_for(command: list[str], tmp_path: Path) -> None:
    needs("setfacl", "getfacl", command[0])
    root, again = tmp_path / "root", tmp_path / "again"
    trees.make(root, Dir("d", File("f", b"x")))
    again.mkdir()
    subprocess.run(["setfacl", "-m", "u:1234:rw,d:u:77:x,d:g:78:rx", root / "d"], check=True)
    subprocess.run(["setfacl", "-m", "u:4321:r,g:5:-", root / "d/f"], check=True)
    subprocess.run(command, input=await exported(root, Profile.FULL), cwd=again, check=True)
    listed = [subprocess.check_output(["getfacl", "-Rn", "."], cwd=place) for place in (again, root)]
    assert b"default:user:77:--x" in listed[0]
    assert listed[0] == listed[1]


async def test_the_clamp_is_what_readers_see(tmp_path: Path) -> None:
    root = tmp_path / "root"
    trees.make(root, *KINDS)
    archive = await exports.body(plan_container(exports.container(root), Options(mtime=1_000_000_000)))
    seen = trees.snapshot(unpacked(archive, tmp_path / "again"))
    assert {item["mtime"] for item in seen.values()} == {1_000_000_000 * SECOND}
