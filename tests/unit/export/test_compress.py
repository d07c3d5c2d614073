"""Compression: every format decodes back, is one single member, and depends on the bytes alone."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random

import pytest
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st

from streamer.export.compress import blocks, compressed
from streamer.tar.compression import Compression, detect

DECODE = {
    Compression.NONE: lambda data: data,
    Compression.GZIP: gzip.decompress,
    Compression.BZIP2: bz2.decompress,
    Compression.XZ: lzma.decompress,
    Compression.ZSTD: zstd.decompress,
}


def cut(data: bytes, seed: int) -> list[bytes]:
    order = random.Random(seed)
    chunks = []
    while data:
        size = order.choice([1, 100, 5000, 65536, 300_000])
        chunks.append(data[:size])
        data = data[size:]
    return chunks


@pytest.mark.parametrize("compression", list(Compression))
@pytest.mark.parametrize("size", [0, 1, 256 << 10, 3_000_001])
def test_the_bytes_come_back_and_do_not_depend_on_how_they_were_cut(compression, size):
    data = random.Random(1).randbytes(size // 2) + bytes(size - size // 2)
    made = {b"".join(compressed(iter(cut(data, seed)), compression)) for seed in range(3)}
    assert len(made) == 1
    (body,) = made
    assert DECODE[compression](body) == data
    if compression is not Compression.NONE:
        assert detect(body[:10]) is compression


@pytest.mark.parametrize("compression", [c for c in Compression if c is not Compression.NONE])
def test_a_cut_body_is_recognised_by_the_format_itself(compression):
    data = random.Random(2).randbytes(1_000_000)
    body = b"".join(compressed(iter([data]), compression))
    with pytest.raises((EOFError, zstd.ZstdError, ValueError, OSError, lzma.LZMAError)):
        whole = DECODE[compression](body[:-1])
        assert whole == data
        raise AssertionError("a cut body passed for a whole one")


def test_a_zstd_frame_has_a_checksum_and_a_window_for_everybody():
    body = b"".join(compressed(iter([bytes(20 << 20)]), Compression.ZSTD))
    info = zstd.get_frame_info(body)
    assert body[4] & 0b100, "content checksum flag"
    assert zstd.ZstdFile(io.BytesIO(body), options={zstd.DecompressionParameter.window_log_max: 23}).read(10)
    assert info is not None


@given(st.lists(st.binary(max_size=50), max_size=30), st.integers(1, 40))
def test_blocks_keep_the_bytes_and_have_the_size(chunks, size):
    found = list(blocks(iter(chunks), size))
    assert b"".join(found) == b"".join(chunks)
    assert all(len(block) == size for block in found[:-1])
    assert all(found)


@pytest.mark.parametrize("compression", list(Compression))
def test_closing_the_result_closes_the_source(compression):
    closed = []
    noise = random.Random(3).randbytes(300_000)

    def source():
        try:
            while True:
                yield noise
        finally:
            closed.append(True)

    stream = compressed(source(), compression)
    next(stream)
    stream.close()
    assert closed
