from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator

import pytest

from streamer.errors import SourceChanged, SourceFailed, Unsupported
from streamer.tar.entry import DIRECTORY, SYMLINK, Content, Entry, Member, Profile
from streamer.tar.writer import archive

KIB = 1 << 10


def blocks(*parts: bytes, closed: list[str] | None = None, error: Exception | None = None) -> Iterator[bytes]:
    try:
        yield from parts
        if error is not None:
            raise error
    finally:
        if closed is not None:
            closed.append("content")


def members(*given: Member, closed: list[str]) -> Iterator[Member]:
    try:
        yield from given
    finally:
        closed.append("members")


def test_empty_archive_is_exactly_two_blocks() -> None:
    assert list(archive(iter(()), Profile.DOCKER)) == [bytes(1024)]


def test_contents_in_every_shape() -> None:
    given: list[tuple[Entry, Content, bytes]] = [
        (Entry(b"d/", DIRECTORY), None, b""),
        (Entry(b"none", size=0), None, b""),
        (Entry(b"nothing", size=0), b"", b""),
        (Entry(b"no blocks", size=0), blocks(), b""),
        (Entry(b"empty blocks", size=2), blocks(b"", b"a", b"", b"b", b""), b"ab"),
        (Entry(b"bytes", size=513), b"x" * 513, b"x" * 513),
        (Entry(b"large", size=300 * KIB), b"y" * 300 * KIB, b"y" * 300 * KIB),
        (Entry(b"l", SYMLINK, linkname=b"x"), None, b""),
        (Entry(b"many", size=1000 * KIB), blocks(*[b"z" * KIB] * 1000), b"z" * 1000 * KIB),
    ]
    data = b"".join(archive(((entry, content) for entry, content, _ in given), Profile.DOCKER))
    assert data.endswith(bytes(1024))
    with tarfile.open(fileobj=io.BytesIO(data)) as file:
        for info, (entry, _, expected) in zip(file, given, strict=True):
            assert info.name == entry.name.decode().rstrip("/")
            if info.isfile():
                extracted = file.extractfile(info)
                assert extracted is not None
                assert extracted.read() == expected


def test_chunks_are_large_but_the_first_comes_early() -> None:
    many = ((Entry(b"%d" % number, size=700), b"c" * 700) for number in range(5000))
    sizes = [len(chunk) for chunk in archive(many, Profile.DOCKER)]
    assert sizes[0] == 512 + 1024
    assert all(256 * KIB <= size < 258 * KIB for size in sizes[1:-1])


def test_headers_alone_are_gathered() -> None:
    many = ((Entry(b"%d" % number), None) for number in range(5000))
    sizes = [len(chunk) for chunk in archive(many, Profile.DOCKER)]
    assert len(sizes) == 2 + (5000 * 512 - 16 * KIB) // (256 * KIB)


def test_large_blocks_are_passed_through_as_they_are() -> None:
    large = [bytes([number]) * (256 * KIB) for number in range(3)]
    content = blocks(b"small", *large, b"small")
    chunks = list(archive(iter([(Entry(b"f", size=3 * 256 * KIB + 10), content)]), Profile.DOCKER))
    assert [any(chunk is block for chunk in chunks) for block in large] == [True] * 3
    whole = b"w" * (5 << 20)
    assert any(chunk is whole for chunk in archive(iter([(Entry(b"f", size=5 << 20), whole)]), Profile.DOCKER))


def test_no_chunk_is_empty() -> None:
    given: list[Member] = [(Entry(b"a", size=512 * KIB), blocks(b"x" * 512 * KIB)), (Entry(b"b"), None)]
    assert all(archive(iter(given), Profile.DOCKER))


@pytest.mark.parametrize(
    "content",
    [
        None,
        b"",
        b"abc",
        b"abcde",
        blocks(),
        blocks(b"abc"),
        blocks(b"abcd", b"e"),
        blocks(b"x" * 300 * KIB),
    ],
    ids=["none", "empty", "bytes-short", "bytes-long", "no-block", "short", "long", "large-block"],
)
def test_a_content_of_another_size_fails_by_name(content: Content) -> None:
    closed: list[str] = []
    given = members((Entry(b"ok"), None), (Entry(b"wrong", size=4), content), (Entry(b"never"), None), closed=closed)
    with pytest.raises(SourceChanged, match="'wrong'") as raised:
        list(archive(given, Profile.DOCKER))
    assert raised.value.details == {"member": "wrong"}
    assert closed == ["members"]


def test_content_where_there_can_be_none_fails() -> None:
    with pytest.raises(SourceChanged):
        list(archive(iter([(Entry(b"d/", DIRECTORY), b"x")]), Profile.DOCKER))


def test_sparse_content_is_its_extents() -> None:
    entry = Entry(b"s", size=1 << 30, sparse=((0, 512), (1 << 20, 3)))
    chunks = list(archive(iter([(entry, blocks(b"a" * 512, b"bcd"))]), Profile.FULL))
    assert sum(map(len, chunks)) == 512 * 3 + 512 + 1024 + 1024


def test_the_end_is_made_after_the_members_had_their_last_word() -> None:
    def checked() -> Iterator[Member]:
        yield Entry(b"f", size=20 * KIB), b"x" * 20 * KIB
        raise SourceChanged("the layer was removed")

    received = []
    with pytest.raises(SourceChanged):
        received.extend(archive(checked(), Profile.DOCKER))


def test_closes_everything_when_abandoned() -> None:
    closed: list[str] = []
    content = blocks(*[b"x" * 300 * KIB] * 3, closed=closed)
    stream = archive(members((Entry(b"f", size=900 * KIB), content), closed=closed), Profile.DOCKER)
    next(stream)
    next(stream)
    assert closed == []
    stream.close()  # type: ignore[attr-defined]
    assert closed == ["content", "members"]


@pytest.mark.parametrize(
    ("entry", "error", "raised"),
    [
        (Entry(b"f", size=9), SourceFailed("EIO"), SourceFailed),
        (Entry(b"bad\0name", size=1), None, Unsupported),
        (Entry(b"f", size=1), None, None),
    ],
    ids=["content-fails", "header-fails", "well"],
)
def test_closes_everything_on_every_other_way(
    entry: Entry, error: Exception | None, raised: type[Exception] | None
) -> None:
    closed: list[str] = []
    content = blocks(b"x", closed=closed, error=error)
    next(content) if raised is Unsupported else None  # a generator that never started has nothing to close
    stream = archive(members((entry, content), closed=closed), Profile.DOCKER)
    if raised is None:
        list(stream)
    else:
        with pytest.raises(raised):
            list(stream)
    assert closed == ["content", "members"]
