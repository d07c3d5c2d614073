"""The records of tar-split files: read in any form that JSON allows, measured without being read, damage told."""

from __future__ import annotations

import base64
import gzip
import io
import json
import zlib

import pytest
from support.splits import packed, recorded, terse
from support.tarbytes import END, header, member

from streamer.errors import StoreDamaged
from streamer.tar.records import File, Record, length, records

CRC = base64.b64encode(b"12345678").decode()
LINES = [
    {"type": 2, "payload": base64.b64encode(b"x" * 512).decode(), "position": 0},
    {"type": 1, "name": 'quo",te" ,"size":7,\\', "size": 3, "payload": CRC, "position": 1},
    {"type": 2, "payload": base64.b64encode(b"y" * 511).decode(), "position": 2},
    {"type": 1, "name_raw": "/w==", "size": 900_000_000_000, "payload": CRC, "position": 3},
    {"type": 2, "payload": base64.b64encode(b"z" * 510).decode(), "position": 4},
    {"type": 1, "name": ',"size":9,"payload":"', "payload": None, "position": 5},
    {"type": 1, "name_raw": "/w==", "payload": None, "position": 6},
    {"type": 1, "payload": None, "position": 7},
    {"type": 2, "payload": "", "position": 8},
    {"type": 1, "name": "usr/lib/[x] {y}!", "size": 1, "payload": CRC, "position": 9},
    {"type": 1, "name": "ü<&>\x00\x7f", "size": 2, "payload": CRC, "position": 10},
    {"type": 1, "name": "empty, with a CRC", "payload": CRC, "position": 11},
]
FOUND: list[Record] = [
    b"x" * 512,
    File(0, b'quo",te" ,"size":7,\\', 3, b"12345678"),
    b"y" * 511,
    File(1, b"\xff", 900_000_000_000, b"12345678"),
    b"z" * 510,
    File(2, b',"size":9,"payload":"', 0, None),
    File(3, b"\xff", 0, None),
    File(4, b"", 0, None),
    b"",
    File(5, b"usr/lib/[x] {y}!", 1, b"12345678"),
    File(6, "ü<&>\x00\x7f".encode(), 2, b"12345678"),
    File(7, b"empty, with a CRC", 0, b"12345678"),
]
PLACES = [0, 512, 515, 1026]
PLACES += [place + 900_000_000_000 for place in (1026, 1536, 1536, 1536, 1536, 1536, 1537, 1539)]
TOTAL = 1539 + 900_000_000_000

FORMS = {
    "terse": gzip.compress(terse(*LINES)),
    "escaped": gzip.compress(
        b"".join(json.dumps(each, separators=(",", ":")).encode() + b"\n" for each in LINES), mtime=0
    ),
    "spaced": packed(*LINES).getvalue(),
    "further fields": packed(*({**each, "more": {"type": 2, "position": 5}} for each in LINES)).getvalue(),
    "another order": packed(*(dict(reversed(each.items())) for each in LINES)).getvalue(),
}


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> bytes:
    return FORMS[request.param]


def test_every_kind_of_line_in_every_form(form: bytes) -> None:
    assert list(records(io.BytesIO(form))) == list(zip(PLACES, FOUND, strict=True))
    assert length(io.BytesIO(form)) == TOTAL


def test_from_any_place_on(form: bytes) -> None:
    """What ends before is left out, and numbers go on as if it were there."""
    everything = list(zip(PLACES, FOUND, strict=True))
    for edge in sorted({*PLACES, TOTAL}):
        for start in (edge - 1, edge, edge + 1):
            if start < 0:
                continue
            expected = [
                (at, each)
                for at, each in everything
                if at >= start or at + (len(each) if isinstance(each, bytes) else each.size) > start
            ]
            assert list(records(io.BytesIO(form), start)) == expected, start


def test_crcs_of_empty_files_and_long_segments_as_old_dockers_have_them() -> None:
    line = {"type": 2, "payload": base64.b64encode(bytes(3 << 20)).decode(), "position": 0}
    for file in (packed(line), io.BytesIO(gzip.compress(terse(line)))):
        assert list(records(file)) == [(0, bytes(3 << 20))]


SEGMENT = {"type": 2, "payload": "AAAA", "position": 0}
DAMAGED = [
    {},
    [],
    {**SEGMENT, "position": 1},
    {**SEGMENT, "payload": None},
    {**SEGMENT, "payload": "!!!!"},
    {**SEGMENT, "payload": "AAA"},
    {**SEGMENT, "payload": "AA==AAAA"},
    {**SEGMENT, "payload": 5},
    {**SEGMENT, "type": 3},
    {"type": 3, "name": "x", "payload": None, "position": 0},
    {"type": 1, "name": "f", "size": 5, "payload": None, "position": 0},
    {"type": 1, "name": "f", "size": 5, "payload": "AAAA", "position": 0},
    {"type": 1, "name": "f", "size": 5, "payload": CRC[:-2], "position": 0},
    {"type": 1, "name": "f", "size": -5, "payload": CRC, "position": 0},
    {"type": 1, "name": "f", "size": 1.5, "payload": CRC, "position": 0},
    {"type": 1, "name": "f", "size": True, "payload": CRC, "position": 0},
    {"type": 1, "name": 7, "payload": None, "position": 0},
    {"type": 1, "name_raw": 7, "payload": None, "position": 0},
]
RAW = [
    b"",
    b"not json\n",
    b"\xff\xfe\n",
    b'{"type":2,"payload":","position":0}\n',
    b'{"type":2,"payload":"AAAAA,"position":0}\n',
    b'{"type":1,"name":"a,"payload":null,"position":0}\n',
    b'{"type":1,"name":"a"b","size":3,"payload":"MTIzNDU2Nzg=","position":0}\n',
    b'{"type":1,"name":"a\x01","size":3,"payload":"MTIzNDU2Nzg=","position":0}\n',
    terse(SEGMENT)[:-1],
    terse(SEGMENT, SEGMENT),
    terse(SEGMENT) + b"\n",
]


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"no gzip",
        gzip.compress(terse(SEGMENT), mtime=0)[:-4],
        gzip.compress(terse(SEGMENT), mtime=0)[:-8] + bytes(8),
        *(gzip.compress(line, mtime=0) for line in RAW),
        *(packed(each).getvalue() for each in DAMAGED),
        *(gzip.compress(terse(each), mtime=0) for each in DAMAGED),
    ],
)
def test_damage(damaged: bytes) -> None:
    with pytest.raises(StoreDamaged):
        list(records(io.BytesIO(damaged)))


@pytest.mark.parametrize(
    "wrong",
    [
        {"type": 2, "payload": "AAA", "position": 12},
        {"type": 2, "payload": "AAAA", "position": 11},
        {"type": 2, "payload": None, "position": 12},
        {"type": 1, "name": "x", "size": -3, "payload": CRC, "position": 12},
        {"type": 1, "name": "x", "size": 3, "payload": None, "position": 12},
        {"type": 1, "name": "x", "size": 3.5, "payload": CRC, "position": 12},
        {"type": 1, "name": "x", "size": 3, "payload": CRC[:-2], "position": 12},
        {"type": 3, "name": "x", "payload": None, "position": 12},
    ],
)
def test_damage_where_it_is_only_measured(wrong: object) -> None:
    damaged = gzip.compress(terse(*LINES, wrong))
    with pytest.raises(StoreDamaged):
        length(io.BytesIO(damaged))
    with pytest.raises(StoreDamaged):
        list(records(io.BytesIO(damaged), TOTAL + 100))


def test_every_cut_of_a_file_is_noticed() -> None:
    file, _ = recorded(member(b"f", b"x" * 600) + header(b"g") + END)
    data = file.getvalue()
    for size in range(len(data)):
        for start in (0, 512, 10_000):
            with pytest.raises(StoreDamaged):
                list(records(io.BytesIO(data[:size]), start))
        with pytest.raises(StoreDamaged):
            length(io.BytesIO(data[:size]))
    assert zlib.decompress(data, wbits=31)


def test_the_last_line_is_whole() -> None:
    with pytest.raises(StoreDamaged):
        length(io.BytesIO(gzip.compress(terse(*LINES)[:-1])))
