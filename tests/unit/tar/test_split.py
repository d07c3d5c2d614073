"""tar-split written: Docker's format, byte for byte."""

from __future__ import annotations

import base64
import gzip

import pytest
from support import tarbytes
from support.splits import assembled, recorded
from support.tarbytes import END, header, member, pax

from streamer.errors import InvalidArchive
from streamer.tar.records import File, records


def crc(data: bytes) -> bytes:
    """CRC-64/ISO, bit by bit."""
    value = (1 << 64) - 1
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0xD800000000000000 if value & 1 else 0)
    return (value ^ ((1 << 64) - 1)).to_bytes(8, "big")


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
    (found,) = (each for _, each in records(file) if isinstance(each, File))
    assert found == File(0, b"f", len(data), bytes.fromhex(value))


def test_segments_are_cut_at_a_mebibyte() -> None:
    data = member(b"f", b"x") + END + bytes(5 << 20)
    file, contents = recorded(data)
    sizes = [len(each) for _, each in records(file) if isinstance(each, bytes)]
    assert max(sizes) == 1 << 20
    assert sum(sizes) == len(data) - 1
    assert assembled(file, contents) == data


def test_names_as_they_are_written() -> None:
    data = (
        pax((b"path", b"\xff" * 200)) + member(b"cut", b"1") + member("./ü".encode(), b"2") + member(b"./a", b"3") + END
    )
    file, _ = recorded(data)
    files = [each for _, each in records(file) if isinstance(each, File)]
    assert [(each.number, each.name) for each in files] == [(0, b"\xff" * 200), (1, "./ü".encode()), (2, b"./a")]


def test_a_cut_archive_is_no_record() -> None:
    with pytest.raises(InvalidArchive):
        recorded(member(b"f", b"x" * 600)[:700])
