"""Other programs as oracles: they read exactly what was written here, and what they write is read exactly here."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from support.hostile import CASES, Case

from streamer.tar.entry import DIRECTORY, FIFO, LINK, SYMLINK, Entry, Profile
from streamer.tar.reader import Reader
from streamer.tar.writer import archive


def program(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(name) is None, reason=f"{name} is not installed")


def run(*command: object, data: bytes = b"", cwd: object = None) -> bytes:
    done = subprocess.run(
        [os.fsencode(str(each)) if not isinstance(each, bytes) else each for each in command],
        input=data,
        capture_output=True,
        cwd=str(cwd) if cwd else None,
        env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "TZ": "UTC"},
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return done.stdout


MEMBERS: list[tuple[Entry, bytes]] = [
    (Entry(b"d/", DIRECTORY, 0o1755, mtime=1_600_000_000_123_456_789), b""),
    (Entry(b"d/file", mode=0o640, size=5, mtime=1_500_000_000_000_000_001), b"hello"),
    (Entry(b"d/empty", mode=0o600, mtime=0), b""),
    (Entry(b"d/" + b"n" * 150, size=3, mtime=1), b"abc"),
    (
        Entry(b"p" * 120 + b"/" + b"s" * 80, size=700, uid=3000000, gid=3000001, mtime=-5 * 10**9 - 5 * 10**8),
        b"z" * 700,
    ),
    (Entry("d/ünï".encode(), size=1, mtime=2**33 * 10**9), b"u"),
    (Entry(b"d/link", LINK, linkname=b"d/file"), b""),
    (Entry(b"d/long-link", LINK, linkname=b"d/" + b"n" * 150), b""),
    (Entry(b"d/sym", SYMLINK, 0o777, linkname=b"x/" * 80), b""),
    (Entry(b"fifo", FIFO, 0o600), b""),
    (Entry(b"attributes", size=1, xattrs={b"user.a": b"1\n2", b"user.b=%": b"\0\xff", b"user.e": b""}), b"x"),
]
HOLES: list[tuple[Entry, bytes]] = [
    (Entry(b"holes/start", size=1 << 20, sparse=((1 << 19, 4),)), b"data"),
    (Entry(b"holes/all", size=1 << 20, sparse=()), b""),
    (Entry(b"holes/end", size=1 << 20, sparse=(((1 << 20) - 512, 512),)), b"e" * 512),
    (
        Entry(b"holes/" + b"many" * 30, size=400 * 8192, sparse=tuple((i * 8192, 512) for i in range(400))),
        b"ab" * 256 * 400,
    ),
    (Entry("holes/ö".encode(), size=9 << 30, sparse=((0, 512), (8 << 30, 2))), b"a" * 514),
]


def written(members: list[tuple[Entry, bytes]], profile: Profile) -> bytes:
    return b"".join(archive(iter(members), profile))


@pytest.mark.parametrize("profile", list(Profile))
@pytest.mark.parametrize("command", [pytest.param(name, marks=program(name)) for name in ("tar", "bsdtar")])
def test_other_programs_list_what_was_written(command: str, profile: Profile) -> None:
    members = MEMBERS + (HOLES if profile is Profile.FULL else [])
    extra = ["--quoting-style=literal"] if command == "tar" else []
    listed = run(command, *extra, "-tf", "-", data=written(members, profile)).split(b"\n")[:-1]
    assert listed == [entry.name for entry, _ in members]


@pytest.mark.root
@pytest.mark.parametrize("command", [pytest.param(name, marks=program(name)) for name in ("tar", "bsdtar")])
def test_other_programs_unpack_the_full_profile(command: str, tmp_path: Path) -> None:
    members = [(entry, content) for entry, content in MEMBERS + HOLES if entry.mtime < 2**33 * 10**9]
    extra = ["--xattrs", "--xattrs-include=*"] if command == "tar" else ["-p", "--xattrs"]
    run(command, *extra, "-xf", "-", data=written(members, Profile.FULL), cwd=tmp_path)
    for entry, content in members:
        path = os.path.join(os.fsencode(tmp_path), entry.name.rstrip(b"/"))
        status = os.lstat(path)
        if entry.type == b"0":
            assert status.st_size == entry.size
            with open(path, "rb") as file:
                for offset, length in entry.sparse if entry.sparse is not None else ((0, entry.size),):
                    file.seek(offset)
                    assert file.read(length) == content[:length]
                    content = content[length:]
            assert entry.sparse is None or status.st_blocks * 512 < entry.size
        # libarchive reads -5.5 as half a second after -5
        if entry.type not in (LINK, SYMLINK, DIRECTORY) and (command == "tar" or entry.mtime >= 0):
            assert status.st_mtime_ns == entry.mtime
    attributes = os.path.join(os.fsencode(tmp_path), b"attributes")
    if "user.a" in os.listxattr(attributes):
        names = {b"user.a", b"user.e"} if command == "bsdtar" else {b"user.a", b"user.e", b"user.b=%"}
        assert names <= {os.fsencode(name) for name in os.listxattr(attributes)}


@pytest.mark.parametrize("profile", list(Profile))
def test_tarfile_reads_what_was_written(profile: Profile) -> None:
    members = MEMBERS + (HOLES if profile is Profile.FULL else [])
    with tarfile.open(fileobj=io.BytesIO(written(members, profile))) as file:
        for info, (entry, _) in zip(file, members, strict=True):
            assert info.name.encode("utf-8", "surrogateescape") == entry.name.rstrip(b"/")
            assert (info.type, info.mode, info.uid, info.gid) == (entry.type, entry.mode, entry.uid, entry.gid)
            # tarfile counts a link's own size, and holds times as floats
            assert info.size == entry.size
            seconds = entry.mtime / 10**9 if profile is Profile.FULL else entry.mtime // 10**9
            assert info.mtime == pytest.approx(seconds, abs=1e-3)
            if profile is Profile.FULL:
                assert {k for k in info.pax_headers if k.startswith("SCHILY.xattr.")} == {
                    "SCHILY.xattr." + k.decode().replace("%", "%25").replace("=", "%3D") for k in entry.xattrs
                }


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    root = os.fsencode(tmp_path_factory.mktemp("tree"))

    def put(name: bytes, content: bytes, mtime_ns: int = 1_600_000_000_987_654_321) -> bytes:
        path = os.path.join(root, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(content)
        os.utime(path, ns=(mtime_ns, mtime_ns))
        return path

    put(b"a", b"")
    first = put(b"d/first", b"x" * 600)
    os.link(first, os.path.join(root, b"d/second"))
    os.symlink(b"first", os.path.join(root, b"d/sym"))
    os.mkfifo(os.path.join(root, b"fifo"))
    return root


@pytest.fixture(scope="module")
def long_tree(tree: bytes, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    root = os.fsencode(tmp_path_factory.mktemp("long"))
    shutil.copytree(tree, os.path.join(root, b"t"), symlinks=True, ignore=lambda _, names: [b"fifo"])
    os.makedirs(os.path.join(root, b"l" * 120))
    for name in (b"l" * 120 + b"/" + b"m" * 120, "ü".encode() * 60):
        with open(os.path.join(root, name), "wb") as file:
            file.write(b"long")
    os.symlink(b"t" * 150, os.path.join(root, b"s" * 120))
    holes = os.path.join(root, b"holes")
    with open(holes, "wb") as file:
        for index in range(40):
            file.seek(index << 17)
            file.write(b"%5d" % index)
        file.truncate(8 << 20)
    return root


def same(root: bytes, data: bytes, *, precise: bool) -> dict[bytes, Entry]:
    """Compares every member with the file it was made of."""
    found: dict[bytes, Entry] = {}
    reader = Reader(io.BytesIO(data))
    for entry in reader:
        content = b"".join(reader.content())
        path = os.path.join(root, entry.name)
        status = os.lstat(path.rstrip(b"/"))
        assert entry.mode == status.st_mode & 0o7777
        assert (entry.uid, entry.gid) == (status.st_uid, status.st_gid)
        assert entry.mtime == (status.st_mtime_ns if precise else status.st_mtime_ns // 10**9 * 10**9)
        if entry.type == b"0":
            with open(path, "rb") as file:
                expected = file.read()
            assert entry.size == len(expected)
            if entry.sparse is None:
                assert content == expected
            else:
                expanded = bytearray(entry.size)
                for offset, length in entry.sparse:
                    expanded[offset : offset + length] = content[:length]
                    content = content[length:]
                assert not content
                assert expanded == expected
        elif entry.type == SYMLINK:
            assert entry.linkname == os.readlink(path)
        found[entry.name.rstrip(b"/")] = entry
    return found


@program("tar")
@pytest.mark.parametrize("form", ["v7", "oldgnu", "gnu", "ustar", "posix"])
def test_reads_gnu_tar(form: str, tree: bytes) -> None:
    names = [b"a", b"d"] if form == "v7" else [b"a", b"d", b"fifo"]  # V7 has no fifos
    data = run("tar", f"--format={form}", "-C", tree, "-cf", "-", *names)
    found = same(tree, data, precise=form == "posix")
    assert set(found) == {b"a", b"d", b"d/first", b"d/second", b"d/sym", *names}
    assert sorted((found[b"d/first"].type, found[b"d/second"].type)) == [b"0", LINK]


@program("tar")
@pytest.mark.parametrize(
    "form", [["gnu"], ["posix"], ["posix", "--sparse-version=0.0"], ["posix", "--sparse-version=0.1"]]
)
def test_reads_gnu_tar_long_names_and_holes(form: list[str], long_tree: bytes) -> None:
    data = run("tar", "--format=" + form[0], *form[1:], "-S", "-C", long_tree, "-cf", "-", ".")
    found = same(long_tree, data, precise=form[0] == "posix")
    assert len(found[b"./holes"].sparse or ()) == 40
    assert {b"./" + b"l" * 120 + b"/" + b"m" * 120, b"./" + b"s" * 120, b"./" + "ü".encode() * 60} <= set(found)


@program("bsdtar")
@pytest.mark.parametrize("form", ["v7", "ustar", "pax", "gnutar"])
def test_reads_bsdtar(form: str, tree: bytes, long_tree: bytes) -> None:
    same(tree, run("bsdtar", f"--format={form}", "-C", tree, "-cf", "-", "a", "d"), precise=form == "pax")
    if form in ("pax", "gnutar"):
        data = run("bsdtar", f"--format={form}", "-C", long_tree, "-cf", "-", ".")
        found = same(long_tree, data, precise=form == "pax")
        assert b"./" + b"l" * 120 + b"/" + b"m" * 120 in found


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_reads_tarfile(form: int, tree: bytes) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as file:
        file.add(os.fsdecode(tree), ".")
    data = out.getvalue()
    assert len(list(Reader(io.BytesIO(data)))) == 7


# The strict reading is one on which the programs agree.
def listed(info: tarfile.TarInfo) -> tuple[bytes, bool]:
    return info.name.encode("utf-8", "surrogateescape").rstrip(b"/"), info.isdir()


def agreed(command: str) -> list[object]:
    cases = [case for case in CASES if case.error is None and command not in case.differs]
    return [pytest.param(case, id=case.id) for case in cases]


@pytest.mark.parametrize("case", agreed("python"))
def test_what_is_accepted_is_read_alike_by_tarfile(case: Case) -> None:
    with tarfile.open(fileobj=io.BytesIO(case.data)) as file:
        assert [listed(info) for info in file] == [(n.rstrip(b"/"), t == DIRECTORY) for n, t, _ in case.entries or ()]


@program("tar")
@pytest.mark.parametrize("case", agreed("tar"))
def test_what_is_accepted_is_read_alike_by_gnu_tar(case: Case) -> None:
    names = run("tar", "--quoting-style=escape", "-tf", "-", data=case.data).split(b"\n")[:-1]
    assert len(names) == len(case.entries or ())


@program("bsdtar")
@pytest.mark.parametrize("case", agreed("bsdtar"))
def test_what_is_accepted_is_read_alike_by_bsdtar(case: Case) -> None:
    names = run("bsdtar", "-tf", "-", data=case.data).split(b"\n")[:-1]
    assert len(names) == len(case.entries or ())


def test_round_trip_of_both_profiles() -> None:
    for profile in Profile:
        members = MEMBERS + (HOLES if profile is Profile.FULL else [])
        reader = Reader(io.BytesIO(written(members, profile)))
        for entry, (expected, content) in zip(reader, members, strict=True):
            assert b"".join(reader.content()) == content
            if profile is Profile.FULL:
                assert entry == expected
            else:
                assert (entry.name, entry.linkname, entry.mtime) == (
                    expected.name,
                    expected.linkname,
                    expected.mtime // 10**9 * 10**9,
                )
