"""Which compression a stream has, told by its first bytes as Docker does, and its content in bounded steps.

What may follow the compressed data: further members (gzip), streams (bzip2, xz) or frames, skippable ones included
(zstd), and zero bytes behind gzip and xz, as their own programs accept. Anything else is refused as InvalidArchive, as
is a stream that stops early: nobody could tell it from one that was cut.
"""

from __future__ import annotations

import bz2
import enum
import lzma
import sys
from collections.abc import Callable
from typing import Protocol, cast

from isal import igzip_lib

from streamer.errors import InvalidArchive, LimitExceeded
from streamer.tar.source import Headed, Limits, Source

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_PEEK = 10
_READ = 64 << 10
_FIRST_STEP = 512
_WINDOW_LOG = 27
_XZ_MEMORY = 256 << 20


class Compression(enum.StrEnum):
    NONE = "none"
    GZIP = "gzip"
    BZIP2 = "bzip2"
    XZ = "xz"
    ZSTD = "zstd"

    @property
    def media_type(self) -> str:
        """What follows `application/vnd.oci.image.layer.v1.tar` for a layer; OCI itself knows gzip and zstd."""
        return "" if self is Compression.NONE else f"+{self}"

    @property
    def suffix(self) -> str:
        """What follows `.tar` in the name of a file."""
        return _SUFFIXES[self]


_SUFFIXES = {
    Compression.NONE: "",
    Compression.GZIP: ".gz",
    Compression.BZIP2: ".bz2",
    Compression.XZ: ".xz",
    Compression.ZSTD: ".zst",
}


def detect(head: bytes) -> Compression:
    """By the first 10 bytes (fewer if there are no more)."""
    if head.startswith(b"BZh"):
        return Compression.BZIP2
    if head.startswith(b"\x1f\x8b\x08"):
        return Compression.GZIP
    if head.startswith(b"\xfd7zXZ\0"):
        return Compression.XZ
    if head.startswith(b"\x28\xb5\x2f\xfd"):
        return Compression.ZSTD
    if len(head) >= 8 and int.from_bytes(head[:4], "little") & 0xFFFFFFF0 == 0x184D2A50:
        return Compression.ZSTD
    return Compression.NONE


def decompressed(source: Source, *, limits: Limits) -> tuple[Compression, Source]:
    """The compression that was found, and a source of the uncompressed bytes; `source` stays its owner's.

    The result's `read` raises InvalidArchive for damaged or cut data, and LimitExceeded for a window above 128 MiB, for
    more than `limits.total` bytes, or for more than `limits.ratio` bytes made of one once `limits.ratio_from` came out.
    """
    head = b""
    while len(head) < _PEEK and (part := source.read(_PEEK - len(head))):
        head += part
    compression = detect(head)
    if compression is Compression.NONE:
        return compression, Headed(head, source)
    return compression, _Decompressed(compression, Headed(head, source), limits)


class _Decoder(Protocol):
    """What the decoders of bz2, lzma, zstd and isal have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


_DECODERS: dict[Compression, Callable[[], _Decoder]] = {
    Compression.GZIP: lambda: igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP),
    Compression.BZIP2: bz2.BZ2Decompressor,
    Compression.XZ: lambda: lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=_XZ_MEMORY),
    Compression.ZSTD: lambda: zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _WINDOW_LOG}),
}
_DAMAGE = (OSError, EOFError, ValueError, lzma.LZMAError, zstd.ZstdError, cast("type[Exception]", igzip_lib.error))


class _Decompressed:
    def __init__(self, compression: Compression, source: Source, limits: Limits) -> None:
        self._compression = compression
        self._source = source
        self._limits = limits
        self._decoder: _Decoder | None = _DECODERS[compression]()
        self._input = b""
        self._at = 0
        self._step = _FIRST_STEP
        self._in = 0
        self._out = 0

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; b"" only at the proper end."""
        while self._decoder is not None:
            data = b""
            if self._decoder.needs_input and not (data := self._next()):
                raise InvalidArchive(f"the {self._compression} stream is truncated")
            out = self._decode(self._decoder, data, size)
            if self._decoder.eof:
                # What the decoder did not use stands at the end of what it was given last.
                self._at -= len(self._decoder.unused_data)
                self._decoder = self._following()
            if out:
                self._out += len(out)
                self._check()
                return out
        return b""

    def _decode(self, decoder: _Decoder, data: bytes, size: int) -> bytes:
        try:
            return decoder.decompress(data, size)
        except _DAMAGE as error:
            text = str(error)
            if "memory" in text.lower():
                raise LimitExceeded(
                    f"the {self._compression} stream needs a larger window than the allowed {1 << _WINDOW_LOG} bytes",
                    limit="window",
                    value=1 << _WINDOW_LOG,
                ) from error
            raise InvalidArchive(f"the {self._compression} stream is damaged: {text}") from error

    def _next(self) -> bytes:
        """The next piece of input. Pieces are small at the start of a member and double: a decoder copies what it does
        not use, so that thousands of tiny members in one large piece would cost their number squared."""
        if not self._available():
            return b""
        piece = self._input[self._at : self._at + self._step]
        self._at += len(piece)
        self._step = min(2 * self._step, _READ)
        return piece

    def _available(self) -> bool:
        if self._at == len(self._input):
            self._input, self._at = self._source.read(_READ), 0
            self._in += len(self._input)
        return self._at < len(self._input)

    def _following(self) -> _Decoder | None:
        """The decoder for another member, or None at the end of the input, zero bytes behind gzip and xz left out."""
        self._step = _FIRST_STEP
        skipped = 0
        while self._available():
            if self._compression in (Compression.GZIP, Compression.XZ) and not self._input[self._at]:
                rest = self._input[self._at :].lstrip(b"\0")
                skipped += len(self._input) - self._at - len(rest)
                self._at = len(self._input) - len(rest)
                continue
            if skipped and self._compression is Compression.GZIP:
                raise InvalidArchive("the gzip stream is followed by something else")
            if skipped % 4:
                raise InvalidArchive("the xz stream has a padding that is no multiple of 4 bytes")
            return _DECODERS[self._compression]()
        if skipped % 4 and self._compression is Compression.XZ:
            raise InvalidArchive("the xz stream has a padding that is no multiple of 4 bytes")
        return None

    def _check(self) -> None:
        limits = self._limits
        if self._out > limits.total:
            raise LimitExceeded(
                f"the archive is longer than the allowed {limits.total} bytes", limit="total", value=limits.total
            )
        used = self._in - len(self._input) + self._at
        if self._out > limits.ratio_from and self._out > limits.ratio * max(used, 1):
            raise LimitExceeded(
                f"the {self._compression} stream expands to more than {limits.ratio} times its size",
                limit="ratio",
                value=limits.ratio,
            )
