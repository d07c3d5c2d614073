from __future__ import annotations

import bz2
import gzip
import io
import itertools
import lzma
import shutil
import subprocess
import zlib

import pytest
from backports import zstd

from streamer.errors import InvalidArchive, LimitExceeded
from streamer.tar import compression as compression_module
from streamer.tar.compression import Compression, decompressed, detect
from streamer.tar.source import Limits, Source

COMPRESS = {
    Compression.GZIP: gzip.compress,
    Compression.BZIP2: bz2.compress,
    Compression.XZ: lzma.compress,
    Compression.ZSTD: zstd.compress,
}
PROGRAMS = {"gzip": Compression.GZIP, "bzip2": Compression.BZIP2, "xz": Compression.XZ, "zstd": Compression.ZSTD}
DATA = b"".join(b"line %d of what is compressed here\n" % number for number in range(40_000))
SKIPPABLE = bytes.fromhex("502a4d18040000005d000000")
every = pytest.mark.parametrize("compression", list(COMPRESS))


class Dripping:
    def __init__(self, data: bytes, sizes: tuple[int, ...]) -> None:
        self._file = io.BytesIO(data)
        self._sizes = itertools.cycle(sizes)

    def read(self, size: int, /) -> bytes:
        return self._file.read(min(size, next(self._sizes)))


def whole(source: Source, size: int = 1 << 16) -> bytes:
    parts = []
    while part := source.read(size):
        assert len(part) <= size
        parts.append(part)
    assert source.read(size) == b""
    return b"".join(parts)


def unpacked(data: bytes, **limits: int) -> bytes:
    return whole(decompressed(io.BytesIO(data), limits=Limits(**limits))[1])


@pytest.mark.parametrize(
    ("head", "found"),
    [
        (b"", Compression.NONE),
        (b"BZh", Compression.BZIP2),
        (b"BZ", Compression.NONE),
        (b"\x1f\x8b\x08", Compression.GZIP),
        (b"\x1f\x8b", Compression.NONE),
        (b"\xfd7zXZ\0", Compression.XZ),
        (b"\xfd7zXZ", Compression.NONE),
        (bytes.fromhex("28b52ffd"), Compression.ZSTD),
        (SKIPPABLE, Compression.ZSTD),
        (bytes.fromhex("5f2a4d1800000000"), Compression.ZSTD),
        (bytes.fromhex("602a4d1800000000"), Compression.NONE),
        (bytes.fromhex("502a4d18"), Compression.NONE),
        (b"usr/bin/\0\0", Compression.NONE),
    ],
)
def test_detection(head: bytes, found: Compression) -> None:
    assert detect(head) is found


def test_names() -> None:
    assert [each.value for each in Compression] == ["none", "gzip", "bzip2", "xz", "zstd"]
    assert [each.suffix for each in Compression] == ["", ".gz", ".bz2", ".xz", ".zst"]
    assert [each.media_type for each in Compression] == ["", "+gzip", "+bzip2", "+xz", "+zstd"]


@pytest.mark.parametrize("data", [b"", b"x", b"usr/", DATA], ids=["empty", "byte", "short", "long"])
def test_uncompressed(data: bytes) -> None:
    for sizes in ((1,), (1 << 20,), (3, 9, 1000)):
        compression, source = decompressed(Dripping(data, sizes), limits=Limits())
        assert compression is Compression.NONE
        assert whole(source) == data


@every
@pytest.mark.parametrize("data", [b"", b"x", DATA], ids=["empty", "byte", "long"])
@pytest.mark.parametrize("sizes", [(1 << 20,), (1, 700, 3)], ids=str)
@pytest.mark.parametrize("read", [1 << 20, 1000])
def test_round_trip(compression: Compression, data: bytes, sizes: tuple[int, ...], read: int) -> None:
    found, source = decompressed(Dripping(COMPRESS[compression](data), sizes), limits=Limits())
    assert found is compression
    assert whole(source, read) == data


def test_docker_bytes() -> None:
    frame = bytes.fromhex("28b52ffd0400310000646f636b6572160e21c3")
    assert unpacked(frame) == b"docker"
    assert unpacked(SKIPPABLE + frame) == b"docker"
    assert unpacked(SKIPPABLE + frame + SKIPPABLE) == b"docker"


@pytest.mark.parametrize("program", [pytest.param(name, id=name) for name in PROGRAMS])
def test_programs_are_read(program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    for level in ("-1", "-9"):
        packed = subprocess.run([program, level, "-c"], input=DATA, capture_output=True, check=True).stdout
        compression, source = decompressed(io.BytesIO(packed), limits=Limits())
        assert compression is PROGRAMS[program]
        assert whole(source) == DATA


@every
def test_members_are_joined(compression: Compression) -> None:
    compress = COMPRESS[compression]
    for sizes in ((1 << 20,), (1,), (11, 512)):
        data = compress(b"one") + compress(b"") + compress(b"two" * 1000) + compress(b"three")
        _, source = decompressed(Dripping(data, sizes), limits=Limits())
        assert whole(source) == b"one" + b"two" * 1000 + b"three"


@every
def test_every_cut_is_truncated(compression: Compression) -> None:
    compress = COMPRESS[compression]
    first = compress(DATA[:3000])
    data = first + compress(DATA[3000:5000])
    for size in range(10, len(data)):
        if size == len(first):
            continue  # nobody can tell: the archive inside ends too early
        with pytest.raises(InvalidArchive, match="truncated"):
            unpacked(data[:size])


@every
def test_no_flipped_bit_goes_unnoticed(compression: Compression) -> None:
    if compression is Compression.ZSTD:
        data = zstd.compress(DATA[:3000], options={zstd.CompressionParameter.checksum_flag: 1})
    else:
        data = COMPRESS[compression](DATA[:3000])
    start = 10 if compression is Compression.GZIP else 6  # a gzip header's time and system are not checked
    for position in range(start, len(data)):
        flipped = bytearray(data)
        flipped[position] ^= 1 << position % 8
        try:
            out = unpacked(bytes(flipped))
        except (InvalidArchive, LimitExceeded):
            continue
        assert out == DATA[:3000]


@pytest.mark.parametrize(
    ("compression", "behind", "accepted"),
    [
        (Compression.GZIP, bytes(1), True),
        (Compression.GZIP, bytes(100_000), True),
        (Compression.GZIP, b"garbage", False),
        (Compression.GZIP, bytes(9) + gzip.compress(b"x", mtime=0), False),
        (Compression.XZ, bytes(4), True),
        (Compression.XZ, bytes(100_000), True),
        (Compression.XZ, bytes(3), False),
        (Compression.XZ, bytes(5) + lzma.compress(b""), False),
        (Compression.XZ, bytes(8) + lzma.compress(b""), True),
        (Compression.XZ, b"garbage!", False),
        (Compression.BZIP2, bytes(4), False),
        (Compression.BZIP2, b"garbage", False),
        (Compression.ZSTD, bytes(4), False),
        (Compression.ZSTD, b"garbage!", False),
        (Compression.ZSTD, SKIPPABLE, True),
    ],
)
@pytest.mark.parametrize("sizes", [(1 << 20,), (1,)], ids=str)
def test_what_may_follow(compression: Compression, behind: bytes, accepted: bool, sizes: tuple[int, ...]) -> None:
    _, source = decompressed(Dripping(COMPRESS[compression](b"data") + behind, sizes), limits=Limits())
    if accepted:
        assert whole(source) == b"data"
    else:
        with pytest.raises(InvalidArchive):
            whole(source)


@pytest.mark.parametrize(("log", "accepted"), [(23, True), (27, True), (28, False), (30, False)])
def test_zstd_window(log: int, accepted: bool) -> None:
    # A frame of an unknown size that declares its window, holding one empty block.
    frame = bytes.fromhex("28b52ffd") + bytes((0x00, (log - 10) << 3)) + b"\x01\0\0"
    if accepted:
        assert unpacked(frame + bytes(0)) == b""
    else:
        with pytest.raises(LimitExceeded, match="window"):
            unpacked(frame)


def test_xz_dictionary() -> None:
    # Only the size declared in the block's header (behind the 12 bytes of the stream's) matters for what is reserved.
    packed = bytearray(lzma.compress(b"x", preset=0))
    end = 12 + (packed[12] + 1) * 4
    packed[packed.index(b"\x21\x01", 12, end) + 2] = 37  # 1.5 GiB
    packed[end - 4 : end] = zlib.crc32(packed[12 : end - 4]).to_bytes(4, "little")
    with pytest.raises(LimitExceeded, match="window"):
        unpacked(bytes(packed))


@every
def test_bombs_are_stopped_soon(compression: Compression) -> None:
    size = 1 << 22
    packed = COMPRESS[compression](bytes(size))
    if compression is Compression.GZIP:
        assert len(unpacked(packed, ratio_from=1 << 16)) == size  # gzip cannot reach the ratio
        return
    with pytest.raises(LimitExceeded) as raised:
        unpacked(packed * 8, ratio_from=1 << 20)
    assert raised.value.details["limit"] == "ratio"
    assert len(unpacked(packed)) == size  # small ones are nobody's harm


@every
def test_total(compression: Compression) -> None:
    packed = COMPRESS[compression](DATA)
    assert unpacked(packed, total=len(DATA)) == DATA
    with pytest.raises(LimitExceeded) as raised:
        unpacked(packed, total=len(DATA) - 1)
    assert raised.value.details["limit"] == "total"


@every
def test_a_read_gives_no_more_than_was_asked_for(compression: Compression) -> None:
    _, source = decompressed(io.BytesIO(COMPRESS[compression](bytes(1 << 22))), limits=Limits())
    assert all(0 < len(source.read(1 << 10)) <= 1 << 10 for _ in range(100))


@every
def test_many_tiny_members_cost_no_square(compression: Compression, monkeypatch: pytest.MonkeyPatch) -> None:
    members, fed = 5000, 0
    make = compression_module._DECODERS[compression]

    class Counting:
        def __init__(self) -> None:
            self.decoder = make()

        def __getattr__(self, name: str) -> object:
            return getattr(self.decoder, name)

        def decompress(self, data: bytes, size: int) -> bytes:
            nonlocal fed
            fed += len(data)
            return self.decoder.decompress(data, size)

    monkeypatch.setitem(compression_module._DECODERS, compression, Counting)
    assert unpacked(COMPRESS[compression](b"") * members) == b""
    assert fed <= 512 * members
