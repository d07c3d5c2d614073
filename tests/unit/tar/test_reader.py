from __future__ import annotations

import io
import itertools
from collections.abc import Iterator

import pytest
from support import hostile, tarbytes
from support.hostile import CASES, ESCAPES, Case
from support.tarbytes import END, header, member, pax

from streamer.errors import InvalidArchive, LimitExceeded, SourceFailed
from streamer.tar.entry import DIRECTORY, REGULAR, Entry
from streamer.tar.reader import Limits, Reader, Written

by_id = pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)


class Dripping:
    """Gives as few bytes as it is told to, whatever is asked."""

    def __init__(self, data: bytes, sizes: Iterator[int]) -> None:
        self._file = io.BytesIO(data)
        self._sizes = sizes

    def read(self, size: int, /) -> bytes:
        return self._file.read(min(size, next(self._sizes)))


def found(reader: Reader) -> tuple[hostile.Found, ...]:
    return tuple((entry.name, entry.type, b"".join(reader.content())) for entry in reader)


@by_id
def test_strict_reading(case: Case) -> None:
    raw: list[bytes] = []
    reader = Reader(io.BytesIO(case.data), raw=raw.append)
    if case.error is not None:
        with pytest.raises(case.error) as raised:
            found(reader)
        assert type(raised.value) is case.error
        assert "\n" not in str(raised.value)
        return
    assert found(reader) == case.entries
    source = io.BytesIO(case.data)
    for _ in Reader(source):  # contents skipped
        pass
    assert source.read() == b"", "the source is read to its end"


@pytest.mark.parametrize("case", [case for case in CASES if len(case.data) < 1 << 14], ids=lambda case: case.id)
@pytest.mark.parametrize("sizes", [(1,), (511, 1, 513)], ids=str)
def test_chunk_boundaries_never_matter(case: Case, sizes: tuple[int, ...]) -> None:
    reader = Reader(Dripping(case.data, itertools.cycle(sizes)))
    if case.error is None:
        assert found(reader) == case.entries
    else:
        with pytest.raises(case.error):
            found(reader)


@pytest.mark.parametrize("escape", ESCAPES, ids=lambda escape: escape.id)
def test_harmful_names_are_for_the_unpacker_to_refuse(escape: hostile.Escape) -> None:
    assert list(Reader(io.BytesIO(escape.data)))


def test_every_field() -> None:
    data = (
        pax(
            (b"SCHILY.xattr.user.a%25%3Db", b"1\0\n2"),
            (b"SCHILY.xattr.user.empty", b""),
            (b"mtime", b"-1.5"),
            (b"path", b"/abs/../f\xff"),
            (b"uid", b"3000000"),
        )
        + header(b"cut", mode=0o104755, gid=5, mtime=7, uid=0)
        + header(b"dev", type=b"3", mode=0o20600, major=300, minor=1000, mtime=1)
        + header(b"l", type=b"2", link=b"../x", mode=0o777)
        + END
    )
    reader = Reader(io.BytesIO(data))
    assert next(reader) == Entry(
        b"/abs/../f\xff",
        mode=0o4755,
        uid=3000000,
        gid=5,
        mtime=-1_500_000_000,
        xattrs={b"user.a%=b": b"1\0\n2", b"user.empty": b""},
    )
    assert reader.written == Written(b"0", 0o104755, 0)
    assert next(reader) == Entry(b"dev", b"3", 0o600, mtime=10**9, devmajor=300, devminor=1000)
    assert reader.written.mode == 0o20600
    assert next(reader) == Entry(b"l", b"2", 0o777, linkname=b"../x")
    assert list(reader) == []
    assert list(reader) == []


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        (b"0", 0),
        (b"1.5", 1_500_000_000),
        (b"1.", 1_000_000_000),
        (b"-0.25", -250_000_000),
        (b"1.1234567899999", 1_123_456_789),
        (b"9999999999", 9999999999 * 10**9),
    ],
)
def test_pax_time(text: bytes, nanoseconds: int) -> None:
    assert next(Reader(io.BytesIO(pax((b"mtime", text)) + header() + END))).mtime == nanoseconds


def test_sparse_extents() -> None:
    cases = {case.id: case.data for case in CASES}
    expected = {
        "old-sparse": (5000, ((0, 512), (1000, 2))),
        "old-sparse-hole": (7 << 30, ()),
        "pax-sparse-0.0": (1000, ((10, 512), (600, 1))),
        "pax-sparse-0.1": (1000, ((10, 512), (600, 1))),
        "pax-sparse-1.0": (1000, ((0, 512), (999, 1))),
        "pax-sparse-1.0-empty": (1 << 40, ()),
    }
    for id, (size, extents) in expected.items():
        (entry,) = Reader(io.BytesIO(cases[id]))
        assert (entry.type, entry.size, entry.sparse) == (REGULAR, size, extents), id


def test_content_in_bounded_blocks_and_skipped_where_left() -> None:
    large = bytes(range(256)) * (3 << 12)
    data = member(b"a", large) + member(b"b", b"bb") + header(b"c/", type=b"5") + END
    reader = Reader(io.BytesIO(data))
    next(reader)
    blocks = list(reader.content())
    assert b"".join(blocks) == large
    assert max(map(len, blocks)) <= 1 << 20
    assert list(reader.content()) == []

    reader = Reader(io.BytesIO(data))
    next(reader)
    content = reader.content()
    first = next(content)
    assert large.startswith(first)
    assert next(reader).name == b"b"
    with pytest.raises(ValueError, match="advanced"):
        next(content)
    assert next(reader).type == DIRECTORY


def test_raw_is_everything_but_content_of_plain_files() -> None:
    sparse = tarbytes.old_sparse(b"s", [(0, 512), (1000, 2)], 5000, b"a" * 514)
    parts = [pax((b"path", b"x")), header(b"a", size=700), b"q" * 700, bytes(324), sparse, END, b"behind"]
    raw: list[bytes] = []
    for _ in Reader(io.BytesIO(b"".join(parts)), raw=raw.append):
        pass
    assert b"".join(raw) == b"".join(parts[:2] + parts[3:])


@pytest.mark.parametrize(
    ("limits", "limit"),
    [
        (Limits(entries=3), "entries"),
        (Limits(total=4000), "total"),
        (Limits(name=50), "name"),
        (Limits(pax=59), "pax"),
    ],
    ids=["entries", "total", "name", "pax"],
)
def test_limits(limits: Limits, limit: str) -> None:
    data = header(b"a") + pax((b"path", b"n" * 51)) + header(b"b") + header(b"c", size=2000) + bytes(2048) + END
    assert len(list(Reader(io.BytesIO(data)))) == 3
    with pytest.raises(LimitExceeded) as raised:
        list(Reader(io.BytesIO(data), limits=limits))
    assert raised.value.details["limit"] == limit


@pytest.mark.parametrize("chain", [pax((b"comment", b"x"), type=b"g"), header(b"d/", type=b"5")])
def test_chains_of_headers_are_counted(chain: bytes) -> None:
    class Endless:
        def read(self, size: int, /) -> bytes:
            return chain * 64

    with pytest.raises(LimitExceeded):
        list(Reader(Endless(), limits=Limits(entries=10_000)))


def test_a_million_pax_records_are_bounded_by_their_bytes() -> None:
    body = b"6 a=b\n" * 1_000_000
    with pytest.raises(LimitExceeded):
        list(Reader(io.BytesIO(pax(body=body) + header() + END)))


def test_every_prefix_is_truncated() -> None:
    data = (
        pax((b"path", b"long" * 40))
        + member(b"f", b"x" * 700)
        + tarbytes.long(b"L", b"n" * 200)
        + header(b"n", magic=tarbytes.GNU)
        + tarbytes.sparse_1_0(b"s", [0, 512, 999, 1], 1000, b"a" * 513)
        + END
    )
    for size in range(len(data)):
        with pytest.raises(InvalidArchive, match="truncated"):
            list(Reader(io.BytesIO(data[:size])))
    assert len(list(Reader(io.BytesIO(data)))) == 3


def test_an_error_of_the_source_passes() -> None:
    class Failing:
        def read(self, size: int, /) -> bytes:
            raise SourceFailed("no more")

    with pytest.raises(SourceFailed):
        list(Reader(Failing()))


def test_messages_name_the_member_on_one_line() -> None:
    data = pax((b"path", b"a\n\x1b[31m\xff" + b"x" * 5000), (b"size", b"9")) + header() + END
    with pytest.raises(InvalidArchive) as raised:
        list(Reader(io.BytesIO(data)))
    assert "\n" not in str(raised.value)
    assert "\x1b" not in str(raised.value)
    assert len(str(raised.value)) < 300
    assert str(raised.value.details["member"]).startswith("a\\n\\x1b[31m\\xff")


def test_a_verified_source_may_do_without_the_end_blocks() -> None:
    whole = tarbytes.member(b"one", content=b"1" * 700) + tarbytes.member(b"two")
    for end in (b"", bytes(512), bytes(1024), bytes(10240)):
        raw: list[bytes] = []
        reader = Reader(io.BytesIO(whole + end), raw=raw.append, terminated=False)
        found = [(entry.name, b"".join(reader.content())) for entry in reader]
        assert found == [(b"one", b"1" * 700), (b"two", b"")]
        assert b"".join(raw) == whole[:512] + whole[1212:] + end
    for cut in (1, 511, 513, 600, 1535, 1537):
        with pytest.raises(InvalidArchive, match="truncated"):
            for _ in Reader(io.BytesIO(whole[:cut]), terminated=False):
                pass
