"""Checksums of parts: as they are sent, kept, and compared with what a storage answers."""

from __future__ import annotations

import pytest

from streamer.sinks.checksums import Checksum, composite, crc32c, looks_like_md5, md5, parse

DATA = memoryview(b"123456789")
CRC = "4waSgw=="  # e3069283, the check value of CRC-32/ISCSI
MD5 = "25f9e794323b453885f5181f1b624d0b"


def test_as_they_are_sent() -> None:
    assert crc32c(DATA).sent == {"ChecksumCRC32C": CRC}
    assert crc32c(DATA).completing == {"ChecksumCRC32C": CRC}
    assert md5(DATA).sent == {"ContentMD5": "JfnnlDI7RTiF9RgfG2JNCw=="}
    assert md5(DATA).completing == {}


@pytest.mark.parametrize("made", [crc32c, md5])
def test_as_they_are_kept(made: object) -> None:
    checksum = made(DATA)  # type: ignore[operator]
    assert parse(str(checksum)) == checksum


@pytest.mark.parametrize(
    ("checksum", "answer", "plain", "denied"),
    [
        (md5(DATA), {"ETag": f'"{MD5}"'}, True, False),
        (md5(DATA), {"ETag": f'"{MD5[::-1]}"'}, True, True),
        (md5(DATA), {"ETag": f'"{MD5[::-1]}"'}, False, False),
        (md5(DATA), {"ETag": '"0x8DB"'}, True, False),
        (md5(DATA), {}, True, True),
        (crc32c(DATA), {"ETag": '"x"', "ChecksumCRC32C": CRC}, True, False),
        (crc32c(DATA), {"ETag": '"x"'}, True, False),
        (crc32c(DATA), {"ETag": '"x"', "ChecksumCRC32C": "AAAAAA=="}, True, True),
        (crc32c(DATA), {"ChecksumCRC32C": CRC}, True, True),
    ],
)
def test_answers(checksum: Checksum, answer: dict[str, str], plain: bool, denied: bool) -> None:
    assert checksum.denied(answer, plain=plain) is denied


def test_etags() -> None:
    assert looks_like_md5(MD5)
    assert looks_like_md5(composite([MD5, MD5]))
    assert composite([MD5, MD5]).endswith("-2")
    assert not looks_like_md5("0x8DB")
