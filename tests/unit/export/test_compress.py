"""Compression: every format decodes back, is one single member, depends on the bytes alone, and leaves no thread."""

from __future__ import annotations

import bz2
import gzip
import io
import itertools
import lzma
import random
import shutil
import subprocess
import threading
import tracemalloc
import zlib
from collections.abc import Iterator

import pytest
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st
from support.leaks import held

from streamer.export import compress, workers
from streamer.export.compress import blocks, compressed
from streamer.tar.compression import Compression, detect

DECODE = {
    Compression.NONE: lambda data: data,
    Compression.GZIP: gzip.decompress,
    Compression.BZIP2: bz2.decompress,
    Compression.XZ: lzma.decompress,
    Compression.ZSTD: zstd.decompress,
}
REAL = [compression for compression in Compression if compression is not Compression.NONE]
DECODERS = {
    Compression.GZIP: lambda: zlib.decompressobj(31),
    Compression.BZIP2: bz2.BZ2Decompressor,
    Compression.XZ: lzma.LZMADecompressor,
    Compression.ZSTD: zstd.ZstdDecompressor,
}
"""Each of them ends at the end of the first member, stream or frame."""
NOISE = random.Random(3).randbytes(1 << 20)


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    before = held()
    yield
    assert held().beyond(before) == []


def cut(data: bytes, seed: int) -> list[bytes]:
    order = random.Random(seed)
    chunks = []
    while data:
        size = order.choice([1, 100, 5000, 65536, 300_000])
        chunks.append(data[:size])
        data = data[size:]
    return chunks


def sample(size: int) -> bytes:
    return random.Random(1).randbytes(size // 2) + bytes(size - size // 2)


def noise(number: int) -> bytes:
    """Another one for each number: the windows of zstd and xz are larger, and would find it again."""
    return random.Random(number).randbytes(300_000)


class Source:
    """Noise without end, and what happened to it."""

    def __init__(self, fail_at: int | None = None) -> None:
        self.fail_at = fail_at
        self.made = 0
        self.closed = False
        self.threads: set[int] = set()

    def __call__(self) -> Iterator[bytes]:
        try:
            for number in itertools.count():
                self.threads.add(threading.get_ident())
                if number == self.fail_at:
                    raise OSError("the source failed")
                self.made += 1
                yield noise(number)
        finally:
            self.threads.add(threading.get_ident())
            self.closed = True


@pytest.mark.parametrize("compression", list(Compression))
@pytest.mark.parametrize("size", [0, 1, 16 << 10, (16 << 10) + 1, 512 << 10, 3_000_001])
def test_the_bytes_come_back_and_do_not_depend_on_how_they_were_cut(compression, size):
    data = sample(size)
    made = {b"".join(compressed(iter(cut(data, seed)), compression)) for seed in range(3)}
    assert len(made) == 1
    (body,) = made
    assert DECODE[compression](body) == data
    if compression is not Compression.NONE:
        assert detect(body[:10]) is compression


@pytest.mark.parametrize("compression", REAL)
@pytest.mark.parametrize("size", [0, 1, 3_000_001])
def test_the_programs_give_the_bytes_back(compression, size):
    program = str(compression)
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    data = sample(size)
    body = b"".join(compressed(iter(cut(data, 0)), compression))
    assert subprocess.run([program, "-dc"], input=body, capture_output=True, check=True).stdout == data


@pytest.mark.parametrize("compression", REAL)
@pytest.mark.parametrize("size", [0, 1, 16 << 10, 3_000_001])
def test_a_body_is_a_single_member(compression, size):
    data = sample(size)
    decoder = DECODERS[compression]()
    assert decoder.decompress(b"".join(compressed(iter([data]), compression))) == data
    assert decoder.eof
    assert decoder.unused_data == b""


@pytest.mark.parametrize("compression", REAL)
def test_a_cut_body_is_recognised_by_the_format_itself(compression):
    data = random.Random(2).randbytes(1_000_000)
    body = b"".join(compressed(iter([data]), compression))
    with pytest.raises((EOFError, zstd.ZstdError, ValueError, OSError, lzma.LZMAError)):
        whole = DECODE[compression](body[:-1])
        assert whole == data
        raise AssertionError("a cut body passed for a whole one")


@pytest.mark.parametrize("compression", REAL)
def test_a_body_cut_at_any_chunk_is_recognised_too(compression):
    chunks = list(compressed(map(noise, range(12)), compression))
    assert len(chunks) > 3
    for count in range(1, len(chunks)):
        decoder = DECODERS[compression]()
        decoder.decompress(b"".join(chunks[:count]))
        assert not decoder.eof


def test_a_zstd_frame_has_a_checksum_and_a_window_for_everybody():
    body = b"".join(compressed(iter([bytes(20 << 20)]), Compression.ZSTD))
    info = zstd.get_frame_info(body)
    assert body[4] & 0b100, "content checksum flag"
    assert zstd.ZstdFile(io.BytesIO(body), options={zstd.DecompressionParameter.window_log_max: 23}).read(10)
    assert info is not None


@given(st.lists(st.binary(max_size=50), max_size=30), st.integers(1, 40), st.integers(1, 60) | st.none())
def test_blocks_keep_the_bytes_and_have_the_size(chunks, size, first):
    found = list(blocks(iter(chunks), size, first))
    assert b"".join(found) == b"".join(chunks)
    assert all(found)
    if found[:-1]:
        assert len(found[0]) == (first or size)
    assert all(len(block) == size for block in found[1:-1])
    if found:
        assert len(found[-1]) <= max(size, first or 0)


@pytest.mark.parametrize("compression", [Compression.GZIP, Compression.ZSTD])
def test_the_first_bytes_leave_before_more_than_the_first_chunk_was_asked_for(compression):
    source = Source()
    stream = compressed(source(), compression)
    begun = DECODERS[compression]().decompress(next(stream))
    assert source.made == 1
    assert begun == noise(0)[: 16 << 10]
    stream.close()


@pytest.mark.parametrize("compression", REAL)
@pytest.mark.parametrize("after", range(8))
def test_closing_at_every_stage_closes_the_source_in_this_thread_and_leaves_none(compression, after):
    source = Source()
    stream = compressed(source(), compression)
    for _ in range(after):
        next(stream)
    stream.close()
    assert source.closed or not after
    assert source.threads <= {threading.get_ident()}
    assert not [thread for thread in threading.enumerate() if thread.name == "compress"]


@pytest.mark.parametrize("compression", REAL)
@pytest.mark.parametrize("fail_at", [0, 1, 2, 3, 4, 9])
def test_an_error_in_the_source_is_raised_and_never_a_clean_end(compression, fail_at):
    source = Source(fail_at=fail_at)
    chunks: list[bytes] = []
    with pytest.raises(OSError, match="the source failed"):
        chunks.extend(compressed(source(), compression))
    assert source.closed
    assert not [thread for thread in threading.enumerate() if thread.name == "compress"]


@pytest.mark.parametrize("compression", REAL)
@pytest.mark.parametrize("fail_at", range(6))
def test_an_error_of_a_worker_is_raised_and_never_a_clean_end(monkeypatch, compression, fail_at):
    submit, count = workers.Workers.submit, itertools.count()

    def failing(_: object) -> object:
        raise MemoryError

    def injected(self, function, argument):
        return submit(self, failing if next(count) == fail_at else function, argument)

    monkeypatch.setattr(workers.Workers, "submit", injected)
    source = Source()
    with pytest.raises(MemoryError):
        for _ in compressed(source(), compression):
            pass
    assert source.closed
    assert source.threads == {threading.get_ident()}


@pytest.mark.parametrize("compression", REAL)
def test_an_error_at_the_very_end_is_raised(monkeypatch, compression):
    def failing(*_: object) -> bytes:
        raise MemoryError

    if compression is Compression.GZIP:
        monkeypatch.setattr(compress.gzip, "trailer", failing)
    else:
        make = compress._COMPRESSORS[compression]

        class Failing:
            def __init__(self) -> None:
                self.compress = make().compress

            flush = failing

        monkeypatch.setitem(compress._COMPRESSORS, compression, Failing)
    with pytest.raises(MemoryError):
        list(compressed(iter([NOISE]), compression))


@pytest.mark.parametrize("compression", REAL)
@pytest.mark.parametrize("allowed", [0, 1])
def test_where_no_thread_can_be_started_the_bytes_are_the_same(monkeypatch, compression, allowed):
    data = sample(3_000_001)
    expected = b"".join(compressed(iter(cut(data, 0)), compression))
    start, left = threading.Thread.start, [allowed]

    def limited(thread: threading.Thread) -> None:
        if not left[0]:
            raise RuntimeError("can't start new thread")
        left[0] -= 1
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
    assert b"".join(compressed(iter(cut(data, 1)), compression)) == expected


@pytest.mark.parametrize("compression", REAL)
def test_many_at_the_same_time_disturb_each_other_in_nothing(compression):
    data = sample(2_000_001)
    expected = b"".join(compressed(iter(cut(data, 0)), compression))
    found: list[bytes | None] = [None] * 8

    def make(number: int) -> None:
        stream = compressed(iter(cut(data, number)), compression)
        if number % 2:
            next(stream)
            stream.close()
        else:
            found[number] = b"".join(stream)

    threads = [threading.Thread(target=make, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected, None] * 4


# The states of bzip2 and xz are traced as well, some 8 and 17 MiB of it.
@pytest.mark.parametrize(
    ("compression", "most"),
    [(Compression.GZIP, 8), (Compression.ZSTD, 8), (Compression.BZIP2, 15), (Compression.XZ, 24)],
)
def test_what_is_held_does_not_grow_with_what_is_sent(compression, most):
    source = Source()
    size = 0
    tracemalloc.start()
    try:
        for chunk in compressed(source(), compression):
            size += len(chunk)
            if source.made >= 60:
                break
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size > 10 << 20
    assert peak < most << 20
