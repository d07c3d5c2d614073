"""What comes in as a context: passed on, made root's, taken in, or refused, with nothing left of it."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import stat
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from support.exports import body
from support.tarbytes import member

from streamer.context.generate import plan_files
from streamer.context.incoming import plan_incoming, taken_in
from streamer.context.plan import Choices, Owner
from streamer.errors import InvalidArchive, InvalidRequest, LimitExceeded, StreamerError
from streamer.tar.source import Limits
from streamer.tar.sum import Summing, Version

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "none": bytes, "gzip": gzip.compress, "bzip2": bz2.compress, "xz": lzma.compress, "zstd": zstd.compress
}  # fmt: skip
END = bytes(1024)
LIMITS = Limits(total=4 << 20)
ARCHIVE = (
    member(b"./Dockerfile", b"FROM scratch\n", uid=7, gid=8)
    + member(b"d/", type=b"5", mode=0o755)
    + member(b"d/big", b"x" * 700_000)
    + member(b"d/link", type=b"1", link=b"d/big")
    + member(b"out", type=b"2", link=b"/etc/passwd")
    + END
)


def source(data: bytes) -> io.BytesIO:
    return io.BytesIO(data)


def opened(data: bytes) -> tarfile.TarFile:
    return tarfile.open(fileobj=io.BytesIO(data))  # memory only


async def passed(data: bytes, owner: Owner = Owner.KEEP, limits: Limits = LIMITS) -> bytes:
    return await body(plan_incoming(source(data), Choices(owner=owner), name="it", limits=limits).plan)


@pytest.mark.parametrize("compression", COMPRESSORS)
async def test_an_archive_passes_untouched(compression: str) -> None:
    assert await passed(COMPRESSORS[compression](ARCHIVE)) == ARCHIVE


@pytest.mark.parametrize("compression", COMPRESSORS)
async def test_an_archive_is_given_to_root(compression: str) -> None:
    made = opened(await passed(COMPRESSORS[compression](ARCHIVE), Owner.ROOT))
    assert made.getnames() == ["./Dockerfile", "d", "d/big", "d/link", "out"]
    assert {(each.uid, each.gid) for each in made} == {(0, 0)}
    big = made.extractfile("d/big")
    assert big is not None
    assert big.read() == b"x" * 700_000


@pytest.mark.parametrize("text", [b"FROM scratch\n", b"FROM scratch\n" + b"# long\n" * 1000])
async def test_a_bare_dockerfile_becomes_a_context(text: bytes) -> None:
    made = opened(await passed(text))
    (only,) = made.getmembers()
    content = made.extractfile(only)
    assert content is not None
    assert (only.name, only.uid, only.mtime, content.read()) == ("Dockerfile", 0, 0, text)


@pytest.mark.parametrize(
    ("data", "error"),
    [(b"", InvalidRequest), (b" \n", InvalidRequest), (b"RUN x\n" * (1 << 18), LimitExceeded)],
    ids=["nothing", "blank", "endless"],
)
def test_what_is_no_context_is_refused(data: bytes, error: type[StreamerError]) -> None:
    with pytest.raises(error):
        plan_incoming(source(data), Choices(), name="it", limits=LIMITS)


HOSTILE = {
    "traversal": member(b"../x", b"x") + END,
    "deep traversal": member(b"a/../../x", b"x") + END,
    "link out": member(b"x", type=b"1", link=b"../../etc/passwd") + END,
    "cut": ARCHIVE[:-1024],
    "cut content": ARCHIVE[:400_000],
    "bad checksum": ARCHIVE[:1024] + b"\1" + ARCHIVE[1025:],
}


@pytest.mark.parametrize("compression", COMPRESSORS)
@pytest.mark.parametrize("owner", Owner)
@pytest.mark.parametrize("case", HOSTILE)
async def test_hostile_archives_are_never_passed_to_their_end(case: str, owner: Owner, compression: str) -> None:
    with pytest.raises(InvalidArchive):
        await passed(COMPRESSORS[compression](HOSTILE[case]), owner)


@pytest.mark.parametrize("compression", COMPRESSORS)
@pytest.mark.parametrize("owner", Owner)
async def test_bombs_stop_at_the_limit(owner: Owner, compression: str) -> None:
    bomb = COMPRESSORS[compression](member(b"zeros", bytes(8 << 20)) + END)
    with pytest.raises(LimitExceeded):
        await passed(bomb, owner)


@pytest.mark.parametrize("compression", COMPRESSORS)
def test_taken_in_with_the_sums_of_all_members(compression: str, tmp_path: Path) -> None:
    summing = Summing(source(ARCHIVE), Version.V1)
    while summing.read(1 << 20):
        pass
    with taken_in(source(COMPRESSORS[compression](ARCHIVE)), tmp_path, limits=LIMITS) as tree:
        assert sorted(os.listdir(tree.root)) == ["Dockerfile", "d", "out"]
        assert os.readlink("out", dir_fd=tree.root) == "/etc/passwd"
        assert len(summing.sums.files) == 5
        assert {file.name: tree.sum(file.name) for file in summing.sums.files} == {
            f.name: f.sum for f in summing.sums.files
        }
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("user", [0, 1], ids=["root", "an ordinary user"])
def test_modes_are_those_of_the_archive(user: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where files on the disk have others, for whoever is not root to be able to read them."""
    modes = {b"closed": 0, b"d": 0o500, b"d/f": 0o240, b"d/open": 0o644, b"hard": 0, b"twice": 0o600}
    data = [
        member(b"closed", b"x", mode=0),
        member(b"d/", type=b"5", mode=0o500),
        member(b"d/f", b"x", mode=0o240),
        member(b"d/open", b"x", mode=0o644),
        member(b"hard", type=b"1", link=b"closed", mode=0o777),
        member(b"twice", b"x", mode=0),
        member(b"twice", b"x", mode=0o600),
    ]
    monkeypatch.setattr(os, "geteuid", lambda: user)
    with taken_in(source(b"".join(data) + END), tmp_path, limits=LIMITS) as tree:
        walked = {node.path: stat.S_IMODE(node.stat.st_mode) for node in tree.nodes(b"") if node.path}
        assert walked == modes
        for path, mode in modes.items():
            status = tree.status(path)
            assert status is not None and stat.S_IMODE(status.st_mode) == mode
            assert status.st_mtime_ns == os.stat(path, dir_fd=tree.root).st_mtime_ns
        assert not user or stat.S_IMODE(os.stat("closed", dir_fd=tree.root).st_mode) == 0o400


ESCAPES = {
    **HOSTILE,
    "link, then through it": member(b"l", type=b"2", link=b"../../secret") + member(b"l/x", b"evil") + END,
    "hard link to nothing": member(b"x", type=b"1", link=b"secret/old") + END,
}


@pytest.mark.parametrize("case", ESCAPES)
def test_nothing_is_written_outside_and_nothing_left(case: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/old").write_text("old")
    try:
        with taken_in(source(ESCAPES[case]), tmp_path / "in", limits=LIMITS):
            assert case == "link, then through it"  # resolved as in a chroot
    except InvalidArchive:
        pass
    assert os.listdir(tmp_path / "in") == []
    assert os.listdir(tmp_path / "secret") == ["old"]
    assert (tmp_path / "secret/old").read_text() == "old"


def test_a_deep_tree_is_removed_too(tmp_path: Path) -> None:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=tarfile.PAX_FORMAT) as archive:
        deepest = tarfile.TarInfo("d/" * 1500 + "f")
        archive.addfile(deepest)
    with taken_in(source(data.getvalue()), tmp_path, limits=LIMITS):
        pass
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "files", [{b"../x": b""}, {b"": b""}, {b"a/": b""}, {b"a": b"", b"./a": b""}, {b"a": b"", b"a/b": b""}]
)
def test_texts_cannot_be_generated_outside(files: dict[bytes, bytes]) -> None:
    with pytest.raises(InvalidRequest, match="a context cannot have"):
        plan_files(files, Choices())


async def test_the_same_texts_give_the_same_bytes() -> None:
    files = {b"Dockerfile": b"FROM scratch\n", b"a/b": b"text"}
    first, second = await body(plan_files(files, Choices()).plan), await body(plan_files(files, Choices()).plan)
    assert first == second
    assert opened(first).getnames() == ["Dockerfile", "a/b"]
