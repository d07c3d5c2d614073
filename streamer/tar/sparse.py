"""Maps of sparse members: GNU's old type `S`, and its PAX formats 0.0, 0.1 and 1.0 (GNU tar manual, "Storing Sparse
Files"). A map comes out as ascending, disjoint, non-empty (offset, length) extents that end within the file's size, all
but the last made of whole blocks: where the data of others is, programs disagree.
"""

from __future__ import annotations

from collections.abc import Sequence

from streamer.errors import InvalidArchive, LimitExceeded, Unsupported, shown
from streamer.tar.entry import Entry
from streamer.tar.fields import number
from streamer.tar.pax import Records, checked_name, decimal
from streamer.tar.source import Cursor, Limits


def old_gnu(entry: Entry, block: bytes, cursor: Cursor, limits: Limits) -> None:
    """Type `S`: four extents in the header, 21 in each block that follows it."""
    numbers: list[int] = []
    try:
        size = number(block[483:495])
        more = _structs(block, 386, 4, numbers)
        if block[482] and not more:
            raise ValueError("its map ends twice")
        continued = block[482]
        while continued:
            block = cursor.take(512)
            more = _structs(block, 0, 21, numbers)
            continued = block[504]
            if continued and not more:
                raise ValueError("its map ends twice")
            _bound(len(numbers) // 2, limits)
    except ValueError as error:
        raise _invalid(entry, str(error)) from None
    _finish(entry, numbers, size, entry.size)


def _structs(block: bytes, at: int, count: int, numbers: list[int]) -> bool:
    """Appends offsets and lengths until an unused place; whether all places were used."""
    for place in range(at, at + 24 * count, 24):
        if not block[place]:
            return False
        numbers.append(number(block[place : place + 12]))
        numbers.append(number(block[place + 12 : place + 24]))
    return True


def from_records(entry: Entry, records: Records, cursor: Cursor, limits: Limits) -> None:
    """PAX formats. Format 1.0 has its map in front of the data, which is read here."""
    sizes = [records[key] for key in (b"GNU.sparse.realsize", b"GNU.sparse.size") if key in records]
    version = (records.get(b"GNU.sparse.major"), records.get(b"GNU.sparse.minor"))
    if len(sizes) != 1:
        raise _invalid(entry, "it has not exactly one real size")
    size = decimal(entry, b"GNU.sparse.realsize", sizes[0])
    stored = entry.size
    if version == (b"1", b"0"):
        if records.pairs or b"GNU.sparse.map" in records:
            raise _invalid(entry, "it has two maps")
        numbers, taken = _leading_map(entry, cursor, limits)
        stored -= taken
    elif version in ((None, None), (b"0", b"0"), (b"0", b"1")):
        numbers = _recorded_map(entry, records, limits)
    else:
        raise Unsupported(f"{shown(entry.name)!r} is sparse in a format that is not known", member=shown(entry.name))
    if (name := records.get(b"GNU.sparse.name")) is not None:
        entry.name = checked_name(name, limits)
    _finish(entry, numbers, size, stored)


def _recorded_map(entry: Entry, records: Records, limits: Limits) -> list[int]:
    text = records.get(b"GNU.sparse.map")
    if (text is None) is not bool(records.pairs):
        raise _invalid(entry, "it has not exactly one map")
    if text is not None:
        _bound(text.count(b",") // 2, limits)
        numbers = [decimal(entry, b"GNU.sparse.map", part) for part in text.split(b",")]
    else:
        _bound(len(records.pairs) // 2, limits)
        keys = (b"GNU.sparse.offset", b"GNU.sparse.numbytes")
        if any(key != keys[index % 2] for index, (key, _) in enumerate(records.pairs)):
            raise _invalid(entry, "offsets and lengths do not alternate")
        numbers = [decimal(entry, key, value) for key, value in records.pairs]
    if len(numbers) != 2 * decimal(entry, b"GNU.sparse.numblocks", records.get(b"GNU.sparse.numblocks", b"")):
        raise _invalid(entry, "its map has not as many extents as it says")
    return numbers


def _leading_map(entry: Entry, cursor: Cursor, limits: Limits) -> tuple[list[int], int]:
    """The numbers of a 1.0 map, and how many bytes it took."""
    text = bytearray()
    lines, wanted = 0, 1
    while lines < wanted:
        if len(text) + 512 > entry.size:
            raise _invalid(entry, "its map is longer than its data")
        block = cursor.take(512)
        text += block
        lines += block.count(b"\n")
        if wanted == 1 and lines:
            count = decimal(entry, b"count", bytes(text[: text.index(b"\n")]))
            _bound(count, limits)
            wanted = 1 + 2 * count
        if len(text) > 512 + 21 * wanted:
            raise _invalid(entry, "its map has a number that is too long")
    parts = bytes(text).split(b"\n", wanted)[1:wanted]
    return [decimal(entry, b"map", part) for part in parts], len(text)


def _finish(entry: Entry, numbers: Sequence[int], size: int, stored: int) -> None:
    """Checks the map against the file's size and the stored bytes, and makes the entry a sparse one."""
    extents = []
    end = total = 0
    for offset, length in zip(numbers[::2], numbers[1::2], strict=True):
        if offset < end or offset + length > size:
            raise _invalid(entry, "its extents overlap, or lie beyond its size")
        end = offset + length
        total += length
        if length:
            extents.append((offset, length))
    if any(length % 512 for _, length in extents[:-1]):
        # GNU tar reads every extent from a block of its own, all others read them without gaps.
        raise _invalid(entry, "its extents are not made of whole blocks of 512 bytes")
    if total != stored:
        raise _invalid(entry, f"its map says {total} bytes of data, its header {stored}")
    entry.size = size
    entry.sparse = tuple(extents)


def _bound(count: int, limits: Limits) -> None:
    if count > limits.extents:
        raise LimitExceeded(
            f"a sparse file has more than the allowed {limits.extents} extents", limit="extents", value=limits.extents
        )


def _invalid(entry: Entry, what: str) -> InvalidArchive:
    member = shown(entry.name)
    return InvalidArchive(f"the sparse map of {member!r} is malformed: {what}", member=member)
