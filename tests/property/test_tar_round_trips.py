"""What is written is what is read, whatever the members, the blocks they come in and the pieces they are read in."""

from __future__ import annotations

import io
import itertools
import tarfile
from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st
from support.splits import whole

from streamer.tar import join, split
from streamer.tar.entry import BLOCK, CHAR, DIRECTORY, FIFO, LINK, REGULAR, SYMLINK, Content, Entry, Profile
from streamer.tar.reader import Reader
from streamer.tar.records import File, length
from streamer.tar.split import SplitWriter
from streamer.tar.writer import archive

NAME = st.one_of(
    st.binary(min_size=1, max_size=12),
    st.text("aZ é日😀\n/", min_size=1, max_size=80).map(str.encode),
    st.lists(st.sampled_from([b"a", b"bc", b"d" * 50, b"e" * 99, b"\xff", b".", b".."]), min_size=1, max_size=9).map(
        b"/".join
    ),
).map(lambda name: name.replace(b"\0", b"0"))
ID = st.one_of(st.integers(0, 70000), st.sampled_from([2097151, 2097152, 4294967295]))
TIME = st.one_of(
    st.integers(0, 2 * 10**18),
    st.integers(-(2**62), 2**66),
    st.integers(-(2**34), 2**34).map(lambda seconds: seconds * 10**9),
)
XATTRS = st.dictionaries(
    st.binary(min_size=1, max_size=9).filter(lambda key: b"\0" not in key).map(lambda key: b"user." + key),
    st.binary(max_size=20),
    max_size=3,
)


@st.composite
def entries(draw: st.DrawFn, *, sparse: bool) -> tuple[Entry, bytes]:
    kind = draw(st.sampled_from([REGULAR, REGULAR, DIRECTORY, SYMLINK, LINK, CHAR, BLOCK, FIFO]))
    name = draw(NAME).rstrip(b"/") or b"n"
    entry = Entry(name + b"/" if kind == DIRECTORY else name, kind, draw(st.integers(0, 0o7777)), draw(ID), draw(ID))
    entry.mtime = draw(TIME)
    entry.xattrs = draw(XATTRS)
    if kind in (LINK, SYMLINK):
        entry.linkname = draw(NAME)
    if kind in (CHAR, BLOCK):
        entry.devmajor, entry.devminor = draw(st.integers(0, 4095)), draw(st.integers(0, 1048575))
    content = draw(st.binary(max_size=1500)) if kind == REGULAR else b""
    entry.size = len(content)
    if kind == REGULAR and sparse and draw(st.booleans()):
        extents, at = [], 0
        for start in range(0, len(content), 512):
            at += draw(st.integers(0, 1 << 33))
            extents.append((at, min(512, len(content) - start)))
            at += 512
        entry.sparse = tuple(extents)
        entry.size = (extents[-1][0] + extents[-1][1] if extents else 0) + draw(st.integers(0, 1 << 33))
    return entry, content


def shaped(content: bytes, cuts: list[int]) -> Content:
    """The content whole, or as blocks cut at any places."""
    if not cuts:
        return content
    places = sorted(min(cut, len(content)) for cut in cuts)
    return iter([content[a:b] for a, b in itertools.pairwise([0, *places, len(content)])])


CUTS = st.lists(st.integers(0, 1500), max_size=4)


class Dripping:
    def __init__(self, data: bytes, sizes: list[int]) -> None:
        self._file = io.BytesIO(data)
        self._sizes = itertools.cycle(sizes)

    def read(self, size: int, /) -> bytes:
        return self._file.read(min(size, next(self._sizes)))


SIZES = st.lists(st.integers(1, 3000), min_size=1, max_size=5)


@given(st.lists(st.tuples(entries(sparse=True), CUTS), max_size=6), SIZES)
def test_full_profile_keeps_everything(members: list[tuple[tuple[Entry, bytes], list[int]]], sizes: list[int]) -> None:
    given = ((entry, shaped(content, cuts)) for (entry, content), cuts in members)
    data = b"".join(archive(given, Profile.FULL))
    assert len(data) % 512 == 0
    reader = Reader(Dripping(data, sizes))
    for found, ((entry, content), _) in zip(reader, members, strict=True):
        assert found == entry
        assert b"".join(reader.content()) == content


@given(st.lists(entries(sparse=False), max_size=6), SIZES)
def test_docker_profile_keeps_what_docker_keeps(members: list[tuple[Entry, bytes]], sizes: list[int]) -> None:
    data = b"".join(archive(iter(members), Profile.DOCKER))
    reader = Reader(Dripping(data, sizes))
    for found, (entry, content) in zip(reader, members, strict=True):
        assert b"".join(reader.content()) == content
        entry.xattrs = {}
        entry.mtime = entry.mtime // 10**9 * 10**9
        assert found == entry


@given(st.lists(entries(sparse=False), min_size=1, max_size=6))
def test_tarfile_reads_the_same(members: list[tuple[Entry, bytes]]) -> None:
    data = b"".join(archive(iter(members), Profile.DOCKER))
    with tarfile.open(fileobj=io.BytesIO(data)) as file:
        for info, (entry, content) in zip(file, members, strict=True):
            name = entry.name.rstrip(b"/")
            assert info.name.encode("utf-8", "surrogateescape") == name
            assert (info.type, info.uid, info.gid, info.size) == (entry.type, entry.uid, entry.gid, entry.size)
            if info.isreg():
                extracted = file.extractfile(info)
                assert extracted is not None
                assert extracted.read() == content


SPANS = st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 1 << 20)), max_size=4)


@given(st.lists(entries(sparse=True), max_size=6), st.binary(max_size=700), SIZES, CUTS, SPANS)
def test_tar_split_gives_the_same_bytes(
    members: list[tuple[Entry, bytes]], trailing: bytes, sizes: list[int], cuts: list[int], spans: list[tuple[int, int]]
) -> None:
    data = b"".join(archive(iter(members), Profile.FULL)) + trailing
    file = io.BytesIO()
    writer = SplitWriter(file)
    contents = []
    for entry, content in split.record(Dripping(data, sizes), writer):
        taken = b"".join(content) if content is not None and not isinstance(content, bytes) else b""
        contents.append(b"" if entry.sparse is not None else taken)
    writer.close()

    def again(found: File, start: int, stop: int) -> bytes | Iterator[bytes]:
        content = shaped(contents[found.number][start:stop], cuts)
        return iter([content]) if isinstance(content, bytes) else content or iter(())

    file.seek(0)
    assert b"".join(join.assemble(file, again)) == data
    file.seek(0)
    assert length(file) == len(data)
    for start, stop in spans:
        start, stop = sorted((start % (len(data) + 1), stop % (len(data) + 1)))
        for each in (again, whole(contents)):
            file.seek(0)
            assert b"".join(join.assemble(file, each, start, stop)) == data[start:stop]
