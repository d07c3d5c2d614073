"""Blobs: read as they are, decompressed into tars, and what is wrong with them said with the layer's name."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from backports import zstd
from support import leaks
from support.images import COMPRESS, file, layer

from streamer.errors import LimitExceeded, NotPermitted, SourceChanged, StoreDamaged, StreamerError
from streamer.oci.descriptor import Descriptor
from streamer.stores import blobs
from streamer.stores.base import Blob
from streamer.tar.source import Limits

TAR = layer(file("noise", random.Random(7).randbytes(3_000_000)), file("zeros", bytes(2_000_000)))
WHAT = "layer 0123 of store s"
DIFF_ID = f"sha256:{hashlib.sha256(TAR).hexdigest()}"
ANOTHER = f"sha256:{'0' * 64}"
"""Of no blob here: all of them are looked through."""


def kept(folder: Path, data: bytes, algorithm: str = "sha256") -> tuple[Path, Descriptor]:
    path = folder / "blob"
    path.write_bytes(data)
    return path, Descriptor("any/type", f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}", len(data))


def blob(folder: Path, data: bytes, algorithm: str = "sha256") -> Blob:
    path, descriptor = kept(folder, data, algorithm)
    return blobs.file_blob(bytes(path), descriptor, WHAT)


def in_memory(data: bytes, given: Callable[[bytes], Iterator[bytes]]) -> Blob:
    descriptor = Descriptor("any/type", f"sha256:{hashlib.sha256(data).hexdigest()}", len(data))
    return Blob(descriptor, lambda start=0, stop=None: given(data[start:stop]))


def few_and_large(chunks: list[bytes]) -> bool:
    """What is small is gathered, except in front of something large."""
    return len(chunks) <= 1 + 2 * sum(map(len, chunks)) // (256 << 10) and max(map(len, chunks), default=0) <= 2 << 20


def test_a_file_is_read_as_it_is(tmp_path: Path) -> None:
    before = leaks.held()
    made = blob(tmp_path, TAR)
    chunks = list(made.read())
    assert b"".join(chunks) == TAR == b"".join(made.read())
    assert max(map(len, chunks)) == 1 << 20
    assert leaks.held().beyond(before) == []


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("compression", COMPRESS)
def test_any_compression_gives_the_tar(compression: str, algorithm: str, tmp_path: Path) -> None:
    made = blob(tmp_path, COMPRESS[compression](TAR), algorithm)
    chunks = list(blobs.assemble(made, ANOTHER, WHAT)())
    assert b"".join(chunks) == TAR
    assert few_and_large(chunks)


def test_an_uncompressed_blob_is_the_tar_and_nothing_hashes_it(tmp_path: Path) -> None:
    made = blob(tmp_path, TAR)
    assert blobs.assemble(made, DIFF_ID, WHAT) is made.read


MIB = 1 << 20
SPANS = [
    (0, None),
    (0, 0),
    (0, 1),
    (1, 2),
    (MIB - 1, MIB + 1),
    (MIB, 2 * MIB),
    (3 * MIB + 5, None),
    (len(TAR) - 1, len(TAR)),
    (len(TAR), len(TAR)),
    (len(TAR) - 7, len(TAR) + 7),
    (len(TAR) + 7, None),
]


@pytest.mark.parametrize("compression", COMPRESS)
def test_any_span(compression: str, tmp_path: Path) -> None:
    data = COMPRESS[compression](TAR)
    made = blob(tmp_path, data)
    before = leaks.held()
    for start, stop in SPANS:
        assert b"".join(made.read(start, stop)) == data[start:stop]
        for diff_id in (DIFF_ID, ANOTHER):
            chunks = list(blobs.assemble(made, diff_id, WHAT)(start, stop))
            assert b"".join(chunks) == TAR[start:stop]
            assert few_and_large(chunks)
    assert leaks.held().beyond(before) == []


def test_nothing_before_a_span_is_read(tmp_path: Path) -> None:
    """A terabyte of it would take its time."""
    path, end = tmp_path / "blob", 1 << 40
    path.touch()
    os.truncate(path, end)
    with path.open("r+b") as file:
        file.seek(end - 3)
        file.write(b"end")
    made = blobs.file_blob(bytes(path), Descriptor("any/type", DIFF_ID, end), WHAT)
    assert b"".join(made.read(end - 4, end - 1)) == b"\0en"
    assert b"".join(blobs.assemble(made, DIFF_ID, WHAT)(end - 2, end - 1)) == b"n"


def test_parts_of_another_blob_do_not_all_end_well(tmp_path: Path) -> None:
    path, descriptor = kept(tmp_path, b"a" * 3_000_000)
    path.write_bytes(b"a" * 2_999_000 + b"b" * 1000)
    made = blobs.file_blob(bytes(path), descriptor, WHAT)
    assert b"".join(made.read(5, 2_000_000)) == b"a" * 1_999_995
    given = []
    with pytest.raises(SourceChanged, match="no longer has its digest"):
        given.extend(made.read(2_000_000))
    assert sum(map(len, given)) < 1_000_000, "the last block was given"


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_a_compressed_blob_is_compared_where_its_end_is_reached(compression: str, tmp_path: Path) -> None:
    data = COMPRESS[compression](TAR)
    made = blob(tmp_path, data)
    (tmp_path / "blob").write_bytes(_flip(data))
    reading = blobs.assemble(made, DIFF_ID, WHAT)
    assert b"".join(reading(1000, 2000)) == TAR[1000:2000]
    for start in (0, 1000, len(TAR) - 1):
        with pytest.raises(StoreDamaged, match=WHAT):
            list(reading(start))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(COMPRESS["gzip"](TAR[:1000]) + COMPRESS["gzip"](TAR[1000:]), id="gzip members (eStargz)"),
        pytest.param(zstd.compress(TAR) + b"\x50\x2a\x4d\x18\x04\0\0\0toc.", id="skippable frame (zstd:chunked)"),
    ],
)
def test_what_follows_the_first_frame(data: bytes, tmp_path: Path) -> None:
    assert b"".join(blobs.assemble(blob(tmp_path, data), DIFF_ID, WHAT)()) == TAR


def test_an_empty_blob(tmp_path: Path) -> None:
    assert list(blobs.assemble(blob(tmp_path, b""), ANOTHER, WHAT)()) == []


def test_chunks_of_a_blob_may_be_of_any_size() -> None:
    data = COMPRESS["gzip"](TAR)

    def dribble(data: bytes) -> Iterator[bytes]:
        rest = data
        for size in (1, 2, 0, 7, 1000):
            yield rest[:size]
            rest = rest[size:]
        yield rest

    assert b"".join(blobs.assemble(in_memory(data, dribble), DIFF_ID, WHAT)()) == TAR


def test_leaving_early_closes_the_blob(tmp_path: Path) -> None:
    before = leaks.held()
    chunks = blobs.assemble(blob(tmp_path, COMPRESS["zstd"](TAR)), DIFF_ID, WHAT)()
    next(chunks)
    assert leaks.held().beyond(before) != []
    chunks.close()  # type: ignore[attr-defined]
    assert leaks.held().beyond(before) == []


def test_size_is_known_of_uncompressed_blobs_only() -> None:
    digest = f"sha256:{hashlib.sha256(TAR).hexdigest()}"
    assert blobs.tar_size(Descriptor("any/type", digest, len(TAR)), digest) == len(TAR)
    other = f"sha256:{hashlib.sha256(COMPRESS['gzip'](TAR)).hexdigest()}"
    assert blobs.tar_size(Descriptor("application/vnd.oci.image.layer.v1.tar", other, 5), digest) is None


def _flip(data: bytes) -> bytes:
    return data[:-600] + bytes([data[-600] ^ 1]) + data[-599:]


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
@pytest.mark.parametrize("broken", [_flip, lambda data: data[:-1], lambda data: data + b"x", lambda data: b""])
def test_damage_is_told_with_the_layer(compression: str, broken: Callable[[bytes], bytes], tmp_path: Path) -> None:
    data = COMPRESS[compression](TAR)
    made = blob(tmp_path, data)
    (tmp_path / "blob").write_bytes(broken(data))
    with pytest.raises(StoreDamaged, match=WHAT):
        list(blobs.assemble(made, ANOTHER, WHAT)())


def test_a_stream_that_is_no_archive_at_its_end(tmp_path: Path) -> None:
    """The digest is right: the blob was made so."""
    with pytest.raises(StoreDamaged, match=f"{WHAT} cannot be decompressed: the gzip stream is truncated"):
        list(blobs.assemble(blob(tmp_path, COMPRESS["gzip"](TAR)[:-100]), DIFF_ID, WHAT)())


@pytest.mark.parametrize("given", [lambda data: iter([data[:-1]]), lambda data: iter([data, b"x"])])
def test_a_store_that_gives_too_little_or_too_much(given: Callable[[bytes], Iterator[bytes]]) -> None:
    with pytest.raises(StoreDamaged, match=WHAT):
        list(blobs.assemble(in_memory(TAR, given), ANOTHER, WHAT)())


def test_a_bomb(tmp_path: Path) -> None:
    limits = Limits(ratio=10, ratio_from=1 << 20)
    with pytest.raises(LimitExceeded, match=WHAT) as raised:
        list(blobs.assemble(blob(tmp_path, COMPRESS["zstd"](bytes(8 << 20))), DIFF_ID, WHAT, limits)())
    assert raised.value.details["limit"] == "ratio"


def test_real_zeros_are_no_bomb(tmp_path: Path) -> None:
    """A gigabyte of zeros in 33 KiB: an image of a disk in an image."""
    compressor = zstd.ZstdCompressor()
    data = b"".join([*(compressor.compress(bytes(16 << 20)) for _ in range(64)), compressor.flush()])
    assert sum(map(len, blobs.assemble(blob(tmp_path, data), DIFF_ID, WHAT)())) == 1 << 30


def _swap(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("done", "error"),
    [
        (Path.unlink, SourceChanged),
        (_swap, StoreDamaged),
        (_folder, StoreDamaged),
        (_fifo, StoreDamaged),
        (lambda path: path.write_bytes(b"other"), StoreDamaged),
    ],
)
def test_a_file_that_is_not_what_it_was(
    done: Callable[[Path], object], error: type[StreamerError], tmp_path: Path
) -> None:
    made = blob(tmp_path, TAR)
    guard = blobs.file_guard(bytes(tmp_path / "blob"), WHAT)
    guard()
    before = leaks.held()
    done(tmp_path / "blob")
    for reading in (made.read, blobs.assemble(made, DIFF_ID, WHAT)):
        with pytest.raises(error, match=WHAT):
            list(reading())
    with pytest.raises(SourceChanged, match=WHAT):
        guard()
    assert leaks.held().beyond(before) == []


def test_a_file_cut_while_it_is_read(tmp_path: Path) -> None:
    chunks = blob(tmp_path, TAR).read()
    next(chunks)
    os.truncate(tmp_path / "blob", 1 << 20)
    with pytest.raises(SourceChanged, match="became shorter"):
        list(chunks)


def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    _, descriptor = kept(tmp_path, TAR)

    def refused() -> int:
        raise PermissionError(13, "Permission denied", str(tmp_path))

    with pytest.raises(NotPermitted) as raised:
        list(blobs.opened_blob(refused, descriptor, WHAT).read())
    assert str(tmp_path) not in str(raised.value)


def test_a_guard_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(SourceChanged):
        blobs.file_guard(bytes(tmp_path / "none"), WHAT)()
