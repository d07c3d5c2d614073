"""Compression of a stream of chunks, in the export's thread: one gzip member, zstd frame, xz or bzip2 stream.

Always a *single* member or frame with a checksum: an archive cut between two of them would pass every tool's test.
The bytes depend on the input alone. isal's depend on how the input is cut as well, so input is re-blocked first.
"""

from __future__ import annotations

import bz2
import lzma
import sys
from collections.abc import Callable, Iterator
from typing import Protocol

from isal import isal_zlib

from streamer.export.closing import closing
from streamer.tar.compression import Compression

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_BLOCK = 256 << 10
_CHUNK = 256 << 10


class _Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self) -> bytes: ...


def _gzip() -> _Compressor:
    compressor: _Compressor = isal_zlib.compressobj(2, wbits=31)
    return compressor


def _zstd() -> _Compressor:
    # The window of level 3 is 2 MiB: every decoder accepts it, also as an HTTP content coding (RFC 9659: 8 MiB).
    options: dict[int, int] = {
        zstd.CompressionParameter.compression_level: 3,
        zstd.CompressionParameter.checksum_flag: 1,
    }
    return zstd.ZstdCompressor(options=options)


def _xz() -> _Compressor:
    # Preset 2 needs some 17 MiB; the default 6 would need 94 MiB for each open export.
    return lzma.LZMACompressor(lzma.FORMAT_XZ, check=lzma.CHECK_CRC64, preset=2)


_COMPRESSORS: dict[Compression, Callable[[], _Compressor]] = {
    Compression.GZIP: _gzip,
    Compression.ZSTD: _zstd,
    Compression.XZ: _xz,
    Compression.BZIP2: lambda: bz2.BZ2Compressor(9),
}


def compressed(chunks: Iterator[bytes], compression: Compression) -> Iterator[bytes]:
    """The chunks, compressed; as they are for NONE. Closes `chunks` if that is a generator."""
    if compression is Compression.NONE:
        return chunks
    return _compressed(chunks, _COMPRESSORS[compression]())


def _compressed(chunks: Iterator[bytes], compressor: _Compressor) -> Iterator[bytes]:
    pending: list[bytes] = []
    waiting = 0
    enough = 1  # the first bytes leave at once: a reader may wait long for the next ones
    with closing(blocks(chunks, _BLOCK)) as source:
        for block in source:
            data = compressor.compress(block)
            if data:
                pending.append(data)
                waiting += len(data)
            if waiting >= enough:
                yield b"".join(pending)
                pending, waiting, enough = [], 0, _CHUNK
    pending.append(compressor.flush())
    yield b"".join(pending)


def blocks(chunks: Iterator[bytes], size: int) -> Iterator[bytes]:
    """The same bytes in blocks of exactly `size`, the last one shorter. Closes `chunks` if that is a generator."""
    buffer = bytearray()
    with closing(chunks) as source:
        for chunk in source:
            view = memoryview(chunk)
            start = 0
            if buffer:
                start = min(size - len(buffer), len(view))
                buffer += view[:start]
                if len(buffer) < size:
                    continue
                yield bytes(buffer)
                buffer.clear()
            while len(view) - start >= size:
                yield bytes(view[start : start + size])
                start += size
            buffer += view[start:]
    if buffer:
        yield bytes(buffer)
