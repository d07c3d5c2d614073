from __future__ import annotations

import base64
import gzip
import io
import json
import zlib
from collections.abc import Iterator

import pytest
from support import tarbytes
from support.hostile import CASES, Case
from support.tarbytes import END, header, member, pax

from streamer.errors import InvalidArchive, SourceChanged, StoreDamaged
from streamer.tar import split
from streamer.tar.split import File, Segment, SplitWriter


def crc(data: bytes) -> bytes:
    """CRC-64/ISO, bit by bit."""
    value = (1 << 64) - 1
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0xD800000000000000 if value & 1 else 0)
    return (value ^ ((1 << 64) - 1)).to_bytes(8, "big")


def recorded(data: bytes, *, consume: bool = True) -> tuple[io.BytesIO, list[bytes]]:
    file, contents = io.BytesIO(), []
    writer = SplitWriter(file)
    for entry, content in split.record(io.BytesIO(data), writer):
        if content is None or isinstance(content, bytes):
            continue
        given = b"".join(content) if consume else b""
        if entry.sparse is None:
            contents.append(given)
    writer.close()
    file.seek(0)
    return file, contents


def lines(file: io.BytesIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in gzip.decompress(file.getvalue()).splitlines()]


def packed(*objects: object) -> io.BytesIO:
    return io.BytesIO(gzip.compress(b"".join(json.dumps(each).encode() + b"\n" for each in objects)))


def assembled(file: io.BytesIO, contents: list[bytes]) -> bytes:
    waiting = iter(contents)
    file.seek(0)
    return b"".join(split.assemble(file, lambda _: iter([next(waiting)])))


@pytest.mark.parametrize("case", [case for case in CASES if case.error is None], ids=lambda case: case.id)
def test_every_archive_comes_back_byte_for_byte(case: Case) -> None:
    file, contents = recorded(case.data)
    assert assembled(file, contents) == case.data
    file.seek(0)
    assert split.length(file) == len(case.data)


def test_contents_that_were_not_used_are_recorded_as_well() -> None:
    data = member(b"a", b"1" * 600) + member(b"b", b"2") + END
    assert recorded(data)[0].getvalue() == recorded(data, consume=False)[0].getvalue()


def test_docker_format() -> None:
    parts = [
        header(b"d/", type=b"5"),
        header(b"<&>\xff", size=3) + b"",
        header("ü<&>".encode(), size=0),
    ]
    data = parts[0] + parts[1] + tarbytes.padded(b"foo") + parts[2] + END
    file, _ = recorded(data)
    text = gzip.decompress(file.getvalue())

    def segment(payload: bytes, position: int) -> bytes:
        return b'{"type":2,"payload":"%b","position":%d}\n' % (base64.b64encode(payload), position)

    assert text == b"".join(
        (
            segment(parts[0], 0),
            b'{"type":1,"name":"d/","payload":null,"position":1}\n',
            segment(parts[1], 2),
            b'{"type":1,"name_raw":"%b","size":3,"payload":"%b","position":3}\n'
            % (base64.b64encode(b"<&>\xff"), base64.b64encode(bytes.fromhex("3c3c303000000000"))),
            segment(bytes(509) + parts[2], 4),
            '{"type":1,"name":"ü\\u003c\\u0026\\u003e","payload":null,"position":5}\n'.encode(),
            segment(END, 6),
        )
    )


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"imma hurr til I derp", "0274a4b1abec6b4e"),
        (b"foo", "3c3c303000000000"),
        (b"bar", "2dc416f000000000"),
        (b"123456789", "b90956c775a41001"),
    ],
)
def test_crc_as_docker_computes_it(data: bytes, value: str) -> None:
    assert crc(data).hex() == value
    file, _ = recorded(member(b"f", data) + END)
    (found,) = (each for each in split.records(file) if isinstance(each, File))
    assert found == File(0, b"f", len(data), bytes.fromhex(value))


def test_segments_are_cut_at_a_mebibyte() -> None:
    data = member(b"f", b"x") + END + bytes(5 << 20)
    file, contents = recorded(data)
    sizes = [len(each.data) for each in split.records(file) if isinstance(each, Segment)]
    assert max(sizes) == 1 << 20
    assert sum(sizes) == len(data) - 1
    assert assembled(file, contents) == data


def test_names_as_they_are_written() -> None:
    data = (
        pax((b"path", b"\xff" * 200)) + member(b"cut", b"1") + member("./ü".encode(), b"2") + member(b"./a", b"3") + END
    )
    file, _ = recorded(data)
    files = [each for each in split.records(file) if isinstance(each, File)]
    assert [(each.index, each.name) for each in files] == [(0, b"\xff" * 200), (1, "./ü".encode()), (2, b"./a")]


def test_a_cut_archive_is_no_record() -> None:
    with pytest.raises(InvalidArchive):
        recorded(member(b"f", b"x" * 600)[:700])


def test_assembling_joins_small_pieces_and_passes_large_ones() -> None:
    large = b"l" * (1 << 20)
    data = b"".join(member(b"%d" % number, b"c" * 100) for number in range(3000)) + member(b"large", large) + END
    file, contents = recorded(data)
    given: list[bytes] = []

    def content(found: File) -> Iterator[bytes]:
        given.append(contents[found.index])
        return iter([contents[found.index]])

    chunks = list(split.assemble(file, content))
    assert b"".join(chunks) == data
    assert all(len(chunk) >= 256 << 10 for chunk in chunks[:3])
    assert any(chunk is given[-1] for chunk in chunks)
    assert len(chunks) < 20


@pytest.mark.parametrize(
    ("blocks", "words"),
    [
        ([b"hello worle"], "another content"),
        ([b"hello ", b"worle"], "another content"),
        ([b"hello worl"], "1 of its 11 bytes too few"),
        ([], "too few"),
        ([b"hello world!"], "more than"),
        ([b"hello world", b"!"], "more than"),
    ],
    ids=["changed", "changed-in-blocks", "short", "nothing", "long", "long-in-blocks"],
)
def test_a_content_that_is_not_what_it_was(blocks: list[bytes], words: str) -> None:
    file, _ = recorded(member(b"d/f\n", b"hello world") + END)
    closed = []

    def content(_: File) -> Iterator[bytes]:
        try:
            yield from blocks
        finally:
            closed.append(True)

    with pytest.raises(SourceChanged, match=words) as raised:
        list(split.assemble(file, content))
    assert raised.value.details == {"member": "d/f\\n"}
    assert closed == [True]


def test_an_abandoned_assembly_closes_its_content() -> None:
    large = b"x" * (1 << 20)
    file, _ = recorded(member(b"f", large * 2) + END)
    closed = []

    def content(_: File) -> Iterator[bytes]:
        try:
            yield large
            yield large
        finally:
            closed.append(True)

    stream = split.assemble(file, content)
    while len(next(stream)) < len(large):
        pass
    assert not closed
    stream.close()  # type: ignore[attr-defined]
    assert closed == [True]
    assert not file.closed


GOOD_CRC = base64.b64encode(bytes(8)).decode()
SEGMENT = {"type": 2, "payload": "AAAA", "position": 0}


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        gzip.compress(b"", mtime=0),
        b"no gzip",
        gzip.compress(b"{}\n", mtime=0),
        gzip.compress(b"not json\n", mtime=0),
        gzip.compress(b"[]\n", mtime=0),
        gzip.compress(json.dumps(SEGMENT).encode(), mtime=0),
        gzip.compress(json.dumps(SEGMENT).encode() + b"\n", mtime=0)[:-4],
        gzip.compress(b"\xff\xfe\n", mtime=0),
        packed({**SEGMENT, "position": 1}),
        packed(SEGMENT, SEGMENT),
        packed({**SEGMENT, "payload": None}),
        packed({**SEGMENT, "payload": "!!!!"}),
        packed({**SEGMENT, "payload": 5}),
        packed({**SEGMENT, "type": 3}),
        packed({"type": 1, "name": "f", "size": 5, "payload": None, "position": 0}),
        packed({"type": 1, "name": "f", "size": 5, "payload": "AAAA", "position": 0}),
        packed({"type": 1, "name": "f", "size": -5, "payload": GOOD_CRC, "position": 0}),
        packed({"type": 1, "name": "f", "size": 1.5, "payload": GOOD_CRC, "position": 0}),
        packed({"type": 1, "name": "f", "size": True, "payload": GOOD_CRC, "position": 0}),
        packed({"type": 1, "name": 7, "payload": None, "position": 0}),
        packed({"type": 1, "name_raw": 7, "payload": None, "position": 0}),
    ],
)
def test_damaged_files(damaged: bytes | io.BytesIO) -> None:
    file = io.BytesIO(damaged) if isinstance(damaged, bytes) else damaged
    with pytest.raises(StoreDamaged):
        list(split.records(file))


def test_every_cut_of_a_file_is_noticed() -> None:
    file, _ = recorded(member(b"f", b"x" * 600) + header(b"g") + END)
    data = file.getvalue()
    for size in range(len(data)):
        with pytest.raises(StoreDamaged):
            list(split.records(io.BytesIO(data[:size])))
    assert zlib.decompress(data, wbits=31)


def test_records_of_docker_with_crcs_for_empty_files_and_long_segments() -> None:
    file = packed(
        {"type": 2, "payload": base64.b64encode(bytes(3 << 20)).decode(), "position": 0},
        {"type": 1, "name": "f", "payload": GOOD_CRC, "position": 1},
    )
    segment, empty = split.records(file)
    assert segment == Segment(bytes(3 << 20))
    assert isinstance(empty, File)
    assert empty.size == 0


def _text(*objects: object) -> list[bytes]:
    """Lines as Go writes them: no spaces."""
    return [json.dumps(each, separators=(",", ":"), ensure_ascii=False).encode() + b"\n" for each in objects]


CRC = base64.b64encode(b"12345678").decode()
USUAL = [
    {"type": 2, "payload": base64.b64encode(b"x" * 512).decode(), "position": 0},
    {"type": 1, "name": 'quo",te" ,"size":7,\\', "size": 3, "payload": CRC, "position": 1},
    {"type": 2, "payload": base64.b64encode(b"x" * 511).decode(), "position": 2},
    {"type": 1, "name_raw": "/w==", "size": 900_000_000_000, "payload": CRC, "position": 3},
    {"type": 2, "payload": base64.b64encode(b"x" * 510).decode(), "position": 4},
    {"type": 1, "name": ',"size":9,"payload":"', "payload": None, "position": 5},
    {"type": 1, "name_raw": "/w==", "payload": None, "position": 6},
    {"type": 1, "payload": None, "position": 7},
    {"type": 2, "payload": "", "position": 8},
]


@pytest.mark.parametrize("lines", [_text(*USUAL), [json.dumps(each).encode() + b"\n" for each in USUAL]])
def test_length_of_every_kind_of_line(lines: list[bytes]) -> None:
    file = io.BytesIO(gzip.compress(b"".join(lines)))
    assert split.length(file) == 512 + 511 + 510 + 3 + 900_000_000_000


@pytest.mark.parametrize(
    "wrong",
    [
        {"type": 2, "payload": "AAA", "position": 9},
        {"type": 2, "payload": "AAAA", "position": 8},
        {"type": 2, "payload": None, "position": 9},
        {"type": 1, "name": "x", "size": -3, "payload": CRC, "position": 9},
        {"type": 1, "name": "x", "size": 3, "payload": None, "position": 9},
        {"type": 1, "name": "x", "size": 3.5, "payload": CRC, "position": 9},
        {"type": 1, "name": "x", "size": 3, "payload": CRC[:-2], "position": 9},
        {"type": 3, "name": "x", "payload": None, "position": 9},
    ],
)
def test_length_of_a_damaged_file(wrong: object) -> None:
    with pytest.raises(StoreDamaged):
        split.length(io.BytesIO(gzip.compress(b"".join(_text(*USUAL, wrong)))))


def test_length_of_a_file_that_ends_early() -> None:
    data = gzip.compress(b"".join(_text(*USUAL)))
    for end in (0, 1, len(data) // 2, len(data) - 1):
        with pytest.raises(StoreDamaged):
            split.length(io.BytesIO(data[:end]))
    with pytest.raises(StoreDamaged):
        split.length(io.BytesIO(gzip.compress(b"".join(_text(*USUAL))[:-1])))
