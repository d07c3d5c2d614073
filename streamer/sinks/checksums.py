"""Checksums of parts, which S3 and compatible storage compare with what arrived.

CRC32C where the storage knows it: it takes a thirtieth of the time of MD5, of which every storage knows what to do.
"""

from __future__ import annotations

import base64
import hashlib
import re
import struct
from dataclasses import dataclass
from typing import Any

from fastcrc import crc32

ALGORITHM = "CRC32C"

_MD5 = re.compile(r"[0-9a-f]{32}(-[0-9]+)?")


@dataclass(frozen=True, slots=True)
class Checksum:
    """Of one part's bytes. As a string `crc32c:…` (base64) or `md5:…` (hexadecimal): what an upload's record keeps."""

    algorithm: str
    raw: bytes

    def __str__(self) -> str:
        written = self.raw.hex() if self.algorithm == "md5" else self._base64
        return f"{self.algorithm}:{written}"

    @property
    def _base64(self) -> str:
        return base64.b64encode(self.raw).decode()

    @property
    def sent(self) -> dict[str, Any]:
        """The arguments of a call that sends these bytes."""
        return {"ContentMD5" if self.algorithm == "md5" else f"Checksum{ALGORITHM}": self._base64}

    @property
    def completing(self) -> dict[str, str]:
        """What the call that completes the upload says of the part besides its ETag."""
        return {} if self.algorithm == "md5" else self.sent

    def denied(self, answer: dict[str, Any], *, plain: bool) -> bool:
        """Whether the answer to those bytes tells of others; with `plain`, an ETag that looks like an MD5 is one."""
        if self.algorithm == "md5":
            etag = etag_of(answer)
            return not etag or (plain and looks_like_md5(etag) and etag != self.raw.hex())
        return not etag_of(answer) or answer.get(f"Checksum{ALGORITHM}", self._base64) != self._base64


def parse(text: str) -> Checksum:
    """The checksum that an upload's record kept. ValueError for anything else."""
    algorithm, _, written = text.partition(":")
    return Checksum(algorithm, bytes.fromhex(written) if algorithm == "md5" else base64.b64decode(written))


def md5(data: memoryview) -> Checksum:
    """Takes two milliseconds a MiB: for a thread."""
    return Checksum("md5", hashlib.md5(data, usedforsecurity=False).digest())


def crc32c(data: memoryview) -> Checksum:
    return Checksum("crc32c", struct.pack(">I", crc32.iscsi(data)))


def etag_of(answer: dict[str, Any]) -> str:
    """The ETag that an answer tells, without its quotes; empty if it tells none."""
    return str(answer.get("ETag", "")).strip('"')


def looks_like_md5(etag: str) -> bool:
    """Whether an ETag has the form of an MD5, or of the MD5 of several parts' MD5s."""
    return _MD5.fullmatch(etag) is not None


def composite(etags: list[str]) -> str:
    """The ETag that S3 gives an object of parts whose ETags are these MD5s."""
    joined = b"".join(bytes.fromhex(etag) for etag in etags)
    return f"{hashlib.md5(joined, usedforsecurity=False).hexdigest()}-{len(etags)}"
