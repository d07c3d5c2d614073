from __future__ import annotations

import io
import tarfile

import pytest

from streamer.errors import Unsupported, shown
from streamer.tar.entry import BLOCK, CHAR, DIRECTORY, FIFO, LINK, REGULAR, SYMLINK, Entry, Profile
from streamer.tar.header import encode

both = pytest.mark.parametrize("profile", list(Profile))


def records(header: bytes) -> dict[bytes, bytes]:
    """The PAX records in front, by a reading of their own."""
    if header[156:157] != b"x":
        return {}
    size = int(header[124:135], 8)
    body, found = header[512 : 512 + size], {}
    while body:
        length = int(body[: body.index(b" ")])
        record, body = body[:length], body[length:]
        assert record.endswith(b"\n")
        key, _, value = record.partition(b" ")[2][:-1].partition(b"=")
        found[key] = value
    assert list(found) == sorted(found)
    return found


@both
def test_ordinary_entry_is_one_block(profile: Profile) -> None:
    block = encode(Entry(b"usr/bin/x", mode=0o4755, uid=1000, gid=100, size=1234, mtime=1_600_000_000 * 10**9), profile)
    assert len(block) == 512
    info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    assert (info.name, info.mode, info.uid, info.gid, info.size) == ("usr/bin/x", 0o4755, 1000, 100, 1234)
    assert (info.mtime, info.type, info.uname, info.gname) == (1_600_000_000, b"0", "", "")
    assert block[257:265] == b"ustar\x0000"
    assert block[329:345] == b"0000000\x000000000\x00"


def test_docker_cuts_to_whole_seconds_towards_the_past() -> None:
    assert encode(Entry(b"f", mtime=1_999_999_999), Profile.DOCKER) == encode(Entry(b"f", mtime=10**9), Profile.DOCKER)
    assert records(encode(Entry(b"f", mtime=-1), Profile.DOCKER)) == {b"mtime": b"-1"}
    # Go's zero time is written as 0 and needs no record.
    assert encode(Entry(b"f", mtime=-62135596800 * 10**9), Profile.DOCKER) == encode(Entry(b"f"), Profile.DOCKER)


@pytest.mark.parametrize(
    ("mtime", "text"),
    [
        (1, b"0.000000001"),
        (1_500_000_000, b"1.5"),
        (-500_000_000, b"-0.5"),
        (-1_500_000_000, b"-1.5"),
        (-1, b"-0.000000001"),
        (-(10**9), b"-1"),
        (2**33 * 10**9, b"8589934592"),
        (2**33 * 10**9 + 10, b"8589934592.00000001"),
    ],
)
def test_full_has_nanoseconds(mtime: int, text: bytes) -> None:
    assert records(encode(Entry(b"f", mtime=mtime), Profile.FULL)) == {b"mtime": text}


@both
@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (Entry(b"f", uid=2097151, gid=2097151), {}),
        (Entry(b"f", uid=2097152), {b"uid": b"2097152"}),
        (Entry(b"f", gid=4294967295), {b"gid": b"4294967295"}),
        (Entry(b"f", size=(8 << 30) - 1), {}),
        (Entry(b"f", size=8 << 30), {b"size": b"8589934592"}),
        (Entry(b"a" * 100), {}),
        (Entry(b"a" * 101), {b"path": b"a" * 101}),
        (Entry(b"a" * 155 + b"/" + b"b" * 100), {}),
        (Entry(b"a" * 156 + b"/" + b"b" * 90), {b"path": b"a" * 156 + b"/" + b"b" * 90}),
        # What could be split gets its record once another record is there.
        (Entry(b"a" * 90 + b"/" + b"b" * 90, gid=2097152), {b"gid": b"2097152", b"path": b"a" * 90 + b"/" + b"b" * 90}),
        (Entry(b"l", SYMLINK, linkname=b"t" * 100), {}),
        (Entry(b"l", SYMLINK, linkname=b"t" * 101), {b"linkpath": b"t" * 101}),
        (Entry(b"l", LINK, linkname="ü".encode()), {b"linkpath": "ü".encode()}),
        (Entry(b"d", CHAR, devmajor=2097151, devminor=2097151), {}),
    ],
    ids=lambda value: shown(value.name)[:20] if isinstance(value, Entry) else "",
)
def test_records_only_where_something_does_not_fit(
    entry: Entry, expected: dict[bytes, bytes], profile: Profile
) -> None:
    header = encode(entry, profile)
    assert records(header) == expected
    assert len(header) == (512 if not expected else 1536)


@pytest.mark.parametrize("size", range(80, 120))
def test_the_length_of_a_record_counts_itself(size: int) -> None:
    records(encode(Entry(b"\xff" * size), Profile.DOCKER))
    records(encode(Entry(b"\xff" * (size * 9)), Profile.DOCKER))


def test_docker_has_capabilities_only_and_of_revision_2() -> None:
    third = b"\x01\0\0\x03" + b"c" * 16 + b"root"
    header = encode(Entry(b"f", xattrs={b"security.capability": third, b"user.a": b"b"}), Profile.DOCKER)
    assert records(header) == {b"SCHILY.xattr.security.capability": b"\x01\0\0\x02" + b"c" * 16}
    assert encode(Entry(b"f", xattrs={b"user.a": b"b"}), Profile.DOCKER) == encode(Entry(b"f"), Profile.DOCKER)


def test_full_has_all_xattrs_as_they_are() -> None:
    third = b"\x01\0\0\x03" + b"c" * 16 + b"root"
    xattrs = {b"security.capability": third, b"user.a=%": b"", b"system.posix_acl_access": b"\n\0"}
    assert records(encode(Entry(b"f", xattrs=xattrs), Profile.FULL)) == {
        b"SCHILY.xattr.security.capability": third,
        b"SCHILY.xattr.user.a%3D%25": b"",
        b"SCHILY.xattr.system.posix_acl_access": b"\n\0",
    }


def test_sparse_map_stands_in_front_of_the_data() -> None:
    entry = Entry(b"d/s", size=1 << 40, sparse=((4096, 512), (1 << 30, 100)))
    header = encode(entry, Profile.FULL)
    assert records(header) == {
        b"GNU.sparse.major": b"1",
        b"GNU.sparse.minor": b"0",
        b"GNU.sparse.name": b"d/s",
        b"GNU.sparse.realsize": b"1099511627776",
    }
    main, sparse_map = header[1024:1536], header[1536:]
    assert main.startswith(b"d/GNUSparseFile.0/s\0")
    assert int(main[124:135], 8) == 512 + entry.stored
    assert sparse_map.rstrip(b"\0") == b"3\n4096\n512\n1073741824\n100\n1099511627776\n0\n"
    assert len(sparse_map) == 512


def test_sparse_map_of_a_file_that_ends_with_data() -> None:
    header = encode(Entry(b"s", size=1024, sparse=((512, 512),)), Profile.FULL)
    assert header[1536:].rstrip(b"\0") == b"1\n512\n512\n"


@both
@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (Entry(b""), "no name"),
        (Entry(b"a\0b"), "NUL"),
        (Entry(b"l", SYMLINK, linkname=b"a\0b"), "NUL"),
        (Entry(b"f/"), "slash"),
        (Entry(b"f/", FIFO), "slash"),
        (Entry(b"f" * 200 + b"/", CHAR), "slash"),
        (Entry(b"f", b"s"), "type"),
        (Entry(b"f", b"x"), "type"),
        (Entry(b"d", BLOCK, devminor=2097152), "device number"),
        (Entry(b"d", CHAR, devmajor=-1), "device number"),
        (Entry(b"f", mode=1 << 21), "mode"),
        (Entry(b"f", uid=-1), "negative"),
        (Entry(b"f", size=-1), "negative"),
        (Entry(b"f" * ((1 << 20) - 5)), "longer than 1048576"),
    ],
    ids=lambda value: "" if isinstance(value, Entry) else value,
)
def test_what_cannot_be_written_is_refused_by_name(entry: Entry, reason: str, profile: Profile) -> None:
    with pytest.raises(Unsupported, match=reason) as raised:
        encode(entry, profile)
    assert raised.value.details["member"] == shown(entry.name)


def test_refused_in_one_profile() -> None:
    with pytest.raises(Unsupported, match="sparse"):
        encode(Entry(b"s", size=512, sparse=()), Profile.DOCKER)
    with pytest.raises(Unsupported, match="blocks"):
        encode(Entry(b"s", size=5000, sparse=((0, 3), (1000, 512))), Profile.FULL)
    with pytest.raises(Unsupported, match="attribute"):
        encode(Entry(b"s", xattrs={b"": b""}), Profile.FULL)


@pytest.mark.parametrize("kind", [REGULAR, LINK, SYMLINK, CHAR, BLOCK, DIRECTORY, FIFO])
@pytest.mark.parametrize("name", [b"n", b"n" * 100, b"p" * 60 + b"/" + b"n" * 60])
def test_the_short_way_writes_what_the_general_way_writes(kind: bytes, name: bytes) -> None:
    from streamer.tar import header

    link = b"target" if kind in (LINK, SYMLINK) else b""
    entry = Entry(
        name[1:] + b"/" if kind == DIRECTORY else name, kind, 0o7777, 1, 2, 3, 4 * 10**9, link, devmajor=5, devminor=6
    )
    assert encode(entry, Profile.DOCKER) == header._extended(entry, Profile.DOCKER, 4, 0)


def test_full_names_that_are_no_text() -> None:
    header = encode(Entry(b"a\xff", SYMLINK, linkname=b"\xfe"), Profile.FULL)
    assert records(header) == {b"hdrcharset": b"BINARY", b"path": b"a\xff", b"linkpath": b"\xfe"}
    # Without a single byte left in the field bsdtar takes a symlink for a hard link.
    assert header[1024 + 157 : 1024 + 159] == b"?\0"
    with tarfile.open(fileobj=io.BytesIO(header + bytes(1024))) as file:
        (info,) = file
    assert info.name == "a\udcff"
