"""Tar archives byte by byte, for tests: blocks, extension headers, sparse maps; no code of streamer's is used."""

from __future__ import annotations

END = bytes(1024)
POSIX = b"ustar\x0000"
GNU = b"ustar  \x00"
V7 = bytes(8)


def header(
    name: bytes = b"f",
    *,
    type: bytes = b"0",
    size: int | bytes = 0,
    mode: int | bytes = 0o644,
    uid: int | bytes = 0,
    gid: int | bytes = 0,
    mtime: int | bytes = 0,
    link: bytes = b"",
    magic: bytes = POSIX,
    major: int | bytes = 0,
    minor: int | bytes = 0,
    prefix: bytes = b"",
    trailer: bytes = b"",
    checksum: bytes | None = None,
) -> bytes:
    """One block; numbers given as bytes are written as they are."""

    def number(value: int | bytes, width: int) -> bytes:
        text = value if isinstance(value, bytes) else b"%0*o\0" % (width - 1, value)
        assert len(text) <= width
        return text.ljust(width, b"\0")

    block = b"".join(
        (
            name.ljust(100, b"\0"),
            number(mode, 8),
            number(uid, 8),
            number(gid, 8),
            number(size, 12),
            number(mtime, 12),
            b" " * 8,
            type,
            link.ljust(100, b"\0"),
            magic,
            bytes(64),
            number(major, 8),
            number(minor, 8),
            prefix.ljust(155, b"\0"),
            trailer.rjust(12, b"\0"),
        )
    )
    assert len(block) == 512
    return signed(block, checksum)


def signed(block: bytes, checksum: bytes | None = None) -> bytes:
    """The block with a right (or the given) checksum."""
    blank = block[:148] + b" " * 8 + block[156:]
    return blank[:148] + (checksum or b"%06o\0 " % sum(blank)) + blank[156:]


def padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % 512)


def member(name: bytes = b"f", content: bytes = b"", **fields: object) -> bytes:
    return header(name, **{"size": len(content), **fields}) + padded(content)  # type: ignore[arg-type]


def record(key: bytes, value: bytes) -> bytes:
    size = len(key) + len(value) + 3
    total = size + len(str(size))
    total = size + len(str(total))
    return b"%d %b=%b\n" % (total, key, value)


def pax(*records: tuple[bytes, bytes], type: bytes = b"x", body: bytes | None = None) -> bytes:
    text = b"".join(record(*each) for each in records) if body is None else body
    return header(b"PaxHeaders/f", type=type, size=len(text)) + padded(text)


def long(type: bytes, name: bytes, **fields: object) -> bytes:
    return member(b"././@LongLink", name + b"\0", type=type, magic=GNU, **fields)


def base256(value: int, width: int) -> bytes:
    raw = (value & ((1 << 8 * width) - 1)).to_bytes(width, "big")
    return bytes((raw[0] | 0x80,)) + raw[1:]


def old_sparse(name: bytes, extents: list[tuple[int, int]], size: int, content: bytes, *, magic: bytes = GNU) -> bytes:
    """GNU's type S: four extents in the header, 21 in each block behind it."""

    def structs(part: list[tuple[int, int]], places: int) -> bytes:
        return b"".join(b"%011o\0%011o\0" % each for each in part).ljust(24 * places, b"\0")

    block = bytearray(header(name, type=b"S", size=len(content), magic=magic))
    block[386:482] = structs(extents[:4], 4)
    block[482] = len(extents) > 4
    block[483:495] = b"%011o\0" % size
    blocks = [signed(bytes(block))]
    rest = extents[4:]
    while rest:
        part, rest = rest[:21], rest[21:]
        blocks.append(structs(part, 21) + bytes((bool(rest),)) + bytes(7))
    return b"".join(blocks) + padded(content)


def sparse_1_0(
    name: bytes, lines: list[int], size: int, content: bytes, *extra: tuple[bytes, bytes], count: int | None = None
) -> bytes:
    numbers = [len(lines) // 2 if count is None else count, *lines]
    data = padded(b"".join(b"%d\n" % each for each in numbers)) + content
    major = [(b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0")]
    named = [(b"GNU.sparse.name", name), (b"GNU.sparse.realsize", b"%d" % size)]
    return pax(*major, *named, *extra) + member(b"GNUSparseFile.0/x", data)
