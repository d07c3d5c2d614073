"""gzip on several cores: one member, the same bytes whatever happens, and nothing that gunzip would not notice."""

from __future__ import annotations

import gzip
import random
import shutil
import struct
import subprocess
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from isal import isal_zlib

from streamer.export import gzip as parallel
from streamer.export.compress import blocks
from streamer.export.gzip import member, trailer
from streamer.export.workers import Pool

BLOCK = 64 << 10


def text(size: int) -> bytes:
    """Something with repetitions near and far, as archives have them."""
    order = random.Random(size)
    words = [order.randbytes(order.randrange(3, 12)).hex().encode() for _ in range(300)]
    made = bytearray()
    while len(made) < size:
        made += b" ".join(order.choices(words, k=200)) + bytes(100)
    return bytes(made[:size])


def made(data: bytes, block: int = BLOCK, first: int | None = None) -> bytes:
    return b"".join(member(blocks(iter([data]), block, first)))


SAMPLES = {
    "empty": b"",
    "one byte": b"x",
    "less than a block": text(1000),
    "a block": text(BLOCK),
    "a block and a byte": text(BLOCK + 1),
    "many": text(20 * BLOCK + 77),
    "zeros": bytes(20 * BLOCK),
    "noise": random.Random(4).randbytes(5 * BLOCK + 1),
}


@pytest.mark.parametrize("data", SAMPLES.values(), ids=SAMPLES)
def test_a_single_member_that_every_decoder_reads(data):
    body = made(data)
    assert gzip.decompress(body) == data
    decoder = zlib.decompressobj(31)
    assert decoder.decompress(body) == data
    assert decoder.eof
    assert decoder.unused_data == b""
    for program in ("gzip", "pigz"):
        if shutil.which(program):
            assert subprocess.run([program, "-dc"], input=body, capture_output=True, check=True).stdout == data


@pytest.mark.parametrize("data", SAMPLES.values(), ids=SAMPLES)
@pytest.mark.parametrize("cores", [1, 2, 7])
def test_the_bytes_do_not_depend_on_the_number_of_workers(monkeypatch, data, cores):
    expected = made(data)
    monkeypatch.setattr(parallel, "CORES", Pool(cores))
    assert {made(data) for _ in range(5)} == {expected}


@given(st.data(), st.binary(max_size=4000), st.integers(1, 700), st.integers(1, 50))
def test_the_bytes_do_not_depend_on_how_the_input_is_cut(draw, data, block, first):
    cuts = sorted(draw.draw(st.lists(st.integers(0, len(data)), max_size=20)))
    chunks = [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    body = b"".join(member(blocks(iter(chunks), block, first)))
    assert body == made(data, block, first)
    assert gzip.decompress(body) == data


def test_a_block_knows_the_end_of_the_one_before_it():
    noise = random.Random(5).randbytes(16 << 10)  # compresses only by what came before
    assert len(made(noise * 8, len(noise))) < 2 * len(noise)


def test_blocks_cost_next_to_nothing():
    data = text(4 << 20)
    whole = isal_zlib.compress(data, parallel.LEVEL, 31)
    assert len(made(data, 512 << 10, 16 << 10)) < 1.01 * len(whole)


def test_an_archive_cut_where_a_block_ends_is_a_cut_archive():
    pieces = list(member(blocks(iter([text(8 * BLOCK)]), BLOCK)))
    assert len(pieces) == 9
    for count in range(1, 9):
        with pytest.raises(EOFError):
            gzip.decompress(b"".join(pieces[:count]))


@pytest.mark.parametrize("last", range(1, 10))
def test_an_archive_without_its_end_is_a_cut_archive(last):
    with pytest.raises((EOFError, struct.error)):
        gzip.decompress(made(text(3 * BLOCK))[:-last])


def test_an_archive_that_lacks_a_block_or_has_two_in_each_others_place_has_the_wrong_checksum():
    pieces = list(member(blocks(iter([random.Random(6).randbytes(6 * BLOCK)]), BLOCK)))
    for wrong in (pieces[:2] + pieces[3:], [pieces[0], pieces[2], pieces[1], *pieces[3:]]):
        with pytest.raises((OSError, zlib.error)):
            gzip.decompress(b"".join(wrong))


def test_the_length_in_the_trailer_counts_modulo_four_gibibytes():
    assert trailer(0xDEADBEEF, (5 << 32) + 7) == bytes.fromhex("efbeadde07000000")


def test_nothing_in_the_header_could_differ():
    assert made(b"x")[:10] == bytes.fromhex("1f8b08000000000000ff")
