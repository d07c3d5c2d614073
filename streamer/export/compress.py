"""Compression of a stream of chunks beside the thread that makes them: a gzip member, zstd frame, xz or bzip2 stream.

Always a *single* member or frame with a checksum: an archive cut between two of them would pass every tool's test.
The bytes depend on the input alone: it is cut anew into blocks of a fixed size first, since those of isal depend on
how its input is cut.

gzip uses every core, the others one besides that of the export's thread (`workers` says how the threads live). zstd's
own workers are not used: with jobs of 1 MiB they hold 10 MiB for each open export instead of 4, with those of their
default 52 MiB, and let the first megabytes wait.
"""

from __future__ import annotations

import bz2
import lzma
import sys
from collections.abc import Callable, Iterator
from typing import Protocol

from streamer.export import gzip
from streamer.export.closing import closing
from streamer.export.workers import Block, Workers, in_order
from streamer.tar.compression import Compression
from streamer.tar.region import Chunk

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_FIRST = 16 << 10
_BLOCK = 512 << 10  # fewer hand-overs: each waits for the lock of the interpreter, which the export's thread is using
_CHUNK = 256 << 10
_AHEAD = 3


class _Compressor(Protocol):
    def compress(self, data: Block, /) -> bytes: ...

    def flush(self) -> bytes: ...


class _Zstd:
    def __init__(self) -> None:
        # Level 3 makes 7 % less of a root file system in a quarter more time, and one core has to keep up. The window
        # of 1 MiB is one that every decoder accepts, also as an HTTP content coding (RFC 9659: 8 MiB).
        options: dict[int, int] = {
            zstd.CompressionParameter.compression_level: 2,
            zstd.CompressionParameter.checksum_flag: 1,
        }
        self._compressor = zstd.ZstdCompressor(options=options)
        self._first = True

    def compress(self, data: Block, /) -> bytes:
        made = self._compressor.compress(data)
        if self._first:  # as far as it is, at once; zstd would gather 128 KiB
            self._first = False
            made += self._compressor.flush(zstd.ZstdCompressor.FLUSH_BLOCK)
        return made

    def flush(self) -> bytes:
        return self._compressor.flush()


def _xz() -> _Compressor:
    # Preset 2 needs some 17 MiB; the default 6 would need 94 MiB for each open export.
    return lzma.LZMACompressor(lzma.FORMAT_XZ, check=lzma.CHECK_CRC64, preset=2)


_COMPRESSORS: dict[Compression, Callable[[], _Compressor]] = {
    Compression.ZSTD: _Zstd,
    Compression.XZ: _xz,
    Compression.BZIP2: lambda: bz2.BZ2Compressor(9),
}


def compressed(chunks: Iterator[Chunk], compression: Compression) -> Iterator[Chunk]:
    """The chunks, compressed; as they are for NONE. The first bytes leave early, all others in chunks of 256 KiB.

    `chunks` is advanced and closed (if it is a generator) only by the thread that advances and closes the result. On
    every way out no thread computes any more, and those that were started for this stream are gone. Holds some
    6 MiB besides a chunk of the source, and for their compressors' state zstd 3 MiB, bzip2 8 and xz 17.
    """
    if compression is Compression.NONE:
        return chunks
    cut = blocks(chunks, _BLOCK, first=_FIRST)
    return _gathered(gzip.member(cut) if compression is Compression.GZIP else _beside(cut, _COMPRESSORS[compression]))


def _beside(cut: Iterator[Block], make: Callable[[], _Compressor]) -> Iterator[bytes]:
    compressor = make()
    with Workers(1) as workers, closing(in_order(workers, compressor.compress, cut, _AHEAD)) as pieces:
        yield from pieces
    yield compressor.flush()


def _gathered(pieces: Iterator[bytes]) -> Iterator[bytes]:
    pending: list[bytes] = []
    waiting = 0
    enough = 1  # a reader may wait long for the next ones
    with closing(pieces) as source:
        for piece in source:
            pending.append(piece)
            waiting += len(piece)
            if waiting >= enough:
                yield b"".join(pending)
                pending, waiting, enough = [], 0, _CHUNK
    if waiting:
        yield b"".join(pending)


def blocks(chunks: Iterator[Chunk], size: int, first: int | None = None) -> Iterator[Block]:
    """The same bytes in blocks of exactly `size`, the first of `first` if given, the last one shorter.

    A block is not touched again. Closes `chunks` if that is a generator.
    """
    wanted = first or size
    gathered = bytearray()
    with closing(chunks) as source:
        for chunk in map(bytes, source):
            view = memoryview(chunk)
            start = 0
            while len(gathered) + len(view) - start >= wanted:
                end = start + wanted - len(gathered)
                if gathered:
                    gathered += view[start:end]
                    yield gathered
                    gathered = bytearray()
                else:
                    yield chunk if end - start == len(view) else bytes(view[start:end])
                start, wanted = end, size
            gathered += view[start:]
    if gathered:
        yield gathered
