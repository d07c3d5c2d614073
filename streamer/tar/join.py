"""A layer's tar put together again, whole or any span of it: its tar-split records, and its files' content."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from typing import BinaryIO, TypeAlias

from fastcrc import crc64

from streamer.errors import SourceChanged, shown
from streamer.tar.chunks import gathered
from streamer.tar.records import File, records

Contents: TypeAlias = Callable[[File, int, int], "bytes | Iterator[bytes]"]
"""Gives the content of a file from one byte on up to before another: just these in blocks (a generator is closed), or
as one object the whole content."""


def assemble(
    file: BinaryIO, content: Contents, start: int = 0, stop: int | None = None
) -> Generator[bytes, None, None]:
    """The archive from byte `start` up to before `stop` (None: its end), in chunks of 256 KiB and more.

    `content` is asked, in order, for each file that has a byte in there. What it gives is compared with the size and,
    wherever the content's last byte is in there, all of it with the CRC-64 in the records before that is given, so that
    parts which add up to a whole cannot all end well if a file is another: SourceChanged names it. StoreDamaged where
    the records cannot be read; they are read no further than `stop`. `file` stays its owner's.
    """
    return gathered(_pieces(file, content, start, sys.maxsize if stop is None else stop))


def _pieces(file: BinaryIO, content: Contents, start: int, stop: int) -> Generator[bytes, None, None]:
    if start >= stop:
        return
    with closing(records(file, start)) as found:
        for at, record in found:
            if at >= stop:
                return
            size = len(record) if isinstance(record, bytes) else record.size
            first = start - at if at < start else 0
            last = size if at + size <= stop else stop - at
            if isinstance(record, bytes):
                yield record[first:last]
            elif size:
                begin = 0 if last == size else first
                given = content(record, begin, last)
                if isinstance(given, bytes):
                    _check(record, len(given), crc64.go_iso(given))
                    yield given[first:last]
                else:
                    yield from _checked(record, given, begin, first, last)


def _checked(file: File, blocks: Iterator[bytes], begin: int, first: int, last: int) -> Iterator[bytes]:
    """The bytes `first` to `last` of the content, of which the blocks are those from `begin` on."""
    given, crc = begin, 0
    whole = last - begin == file.size
    try:
        for block in blocks:
            before, given = given, given + len(block)
            if given > last:
                raise _changed(file, f"has more than its {last} bytes")
            if whole:
                crc = crc64.go_iso(block, crc)
                if given == last:
                    _check(file, given, crc)  # before the last block is given
            if given > first:
                yield block if before >= first else block[first - before :]
    finally:
        close = getattr(blocks, "close", None)
        if close is not None:
            close()
    if given != last:
        raise _changed(file, f"has {last - given} of its {file.size} bytes too few")


def _check(file: File, given: int, crc: int) -> None:
    if given > file.size:
        raise _changed(file, f"has more than its {file.size} bytes")
    if given < file.size:
        raise _changed(file, f"has {file.size - given} of its {file.size} bytes too few")
    if crc.to_bytes(8, "big") != file.crc:
        raise _changed(file, "has another content (CRC-64)")


def _changed(file: File, what: str) -> SourceChanged:
    member = shown(file.name)
    return SourceChanged(f"{member!r} {what} than when its layer was stored", member=member)
