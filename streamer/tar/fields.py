"""One 512-byte header block as values: the fields that V7, ustar, GNU and star have in common, read strictly."""

from __future__ import annotations

from dataclasses import dataclass
from zlib import adler32

from streamer.errors import InvalidArchive, shown

_OCTAL = frozenset(b"01234567")
_POSIX = b"ustar\0"
_GNU = b"ustar  \0"


@dataclass(slots=True)
class Fields:
    """`mtime` in seconds; `type` and `mode` exactly as written. `posix` and `gnu` tell the dialect, neither is V7."""

    name: bytes
    type: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    linkname: bytes
    devmajor: int
    devminor: int
    posix: bool
    gnu: bool


def parsed(block: bytes) -> Fields:
    """Raises InvalidArchive for a wrong checksum and for a number that is not one or that is negative (but a time)."""
    _verify(block)
    name = text(block[:100])
    magic = block[257:265]
    posix = magic[:6] == _POSIX
    gnu = magic == _GNU
    if posix and block[345]:
        # star keeps times in the last 24 bytes of the prefix; it is told by its trailer and by the NUL before them.
        star = block[508:512] == b"tar\0" and not block[475]
        name = text(block[345 : 476 if star else 500]) + b"/" + name
    known = posix or gnu
    try:
        return Fields(
            name,
            block[156:157],
            number(block[100:108]),
            number(block[108:116]),
            number(block[116:124]),
            number(block[124:136]),
            number(block[136:148], negative=True),
            text(block[157:257]),
            number(block[329:337]) if known else 0,
            number(block[337:345]) if known else 0,
            posix,
            gnu,
        )
    except ValueError as error:
        member = shown(name)
        raise InvalidArchive(
            f"the header of {member!r} has a field that is no number: {error}", member=member
        ) from None


def text(field: bytes) -> bytes:
    """What stands before the first NUL."""
    end = field.find(b"\0")
    return field if end < 0 else field[:end]


def number(field: bytes, *, negative: bool = False) -> int:
    """Octal digits between spaces and NULs (nothing at all is 0), or base 256. Raises ValueError."""
    if field[0] & 0x80:
        bits = 8 * len(field) - 1
        value = int.from_bytes(field, "big") & ((1 << bits) - 1)
        if field[0] & 0x40:
            value -= 1 << bits
        if value >= 1 << 63 or value < (-(1 << 63) if negative else 0):
            raise ValueError(f"{field!r} is outside of what is allowed")
        return value
    # strip() alone would also take NULs in front of digits, of which readers disagree.
    digits = field.lstrip(b" ").rstrip(b" \0")
    if not digits:
        return 0
    if not _OCTAL.issuperset(digits):
        raise ValueError(f"{field!r}")
    return int(digits, 8)


def _verify(block: bytes) -> None:
    try:
        promised = number(block[148:156])
    except ValueError:
        promised = -1
    other = block[:148] + b"        " + block[156:]
    if other.isascii():
        # 512 * 127 is below Adler's modulus: its low half is exactly 1 + the sum.
        right = promised == (adler32(other) & 0xFFFF) - 1
    else:
        unsigned = sum(other)
        # Historic writers summed signed characters.
        right = promised in (unsigned, unsigned - 256 * sum(byte >> 7 for byte in other))
    if not right:
        raise InvalidArchive("a header has a wrong checksum: this is not a tar archive, or it is damaged")
