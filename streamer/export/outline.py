"""Known beforehand, without reading a byte of content: an archive's length and version, and where in it to begin.

A pass that only measures gives the exact size, a digest over the facts of every member (the ETag), and marks: every so
many MiB where a later pass can begin, with the state of the digest there. A part is made by a pass from the mark before
it, which digests the facts of what it meets on its way once more: at each mark, and at its end, the digest must be what
it was, so that bytes of two versions never get into one body.
"""

from __future__ import annotations

import hashlib
import time
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from streamer.errors import SourceChanged
from streamer.export.closing import closing
from streamer.export.items import NEVER, Cursor, Identity, Item, Pass, Resume
from streamer.export.plan import Options, Outline, Span
from streamer.stores.base import Guard
from streamer.tar.region import Chunk
from streamer.tar.writer import END, Encoded, Piece, close, joined

if TYPE_CHECKING:
    from hashlib import _Hash

_STRIDE = 1 << 20
_MARKS = 256
_GRAIN = 20_000_000
"""Nanoseconds: kernels keep a file's times by a clock that ticks at most every 10 ms."""
_PASSES = 3


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in an archive where a walk can begin again: with the file at the path, whose member begins at `offset`.
    `state` has digested the facts of everything before it."""

    offset: int
    at: bytes
    state: _Hash


@dataclass(frozen=True, slots=True)
class Measured:
    """What one measuring pass found. `marks` are in order, at most 256, the first at 0; `links` has the first name of
    each file that has several, and the offset of its member."""

    size: int
    etag: str
    marks: tuple[Mark, ...]
    links: Mapping[Identity, tuple[bytes, int]]


def measured(begin: Pass, options: Options) -> Measured:
    """Measures the source.

    A file written to in the very moment of the pass may be written to again without its times becoming others, so the
    pass is repeated once those times are past.
    """
    for _ in range(_PASSES):
        began = time.time_ns()
        found, newest = _measured(begin, options)
        if not began - _GRAIN < newest <= time.time_ns():
            break
        time.sleep(_GRAIN / 1e9)
    return found


def _measured(begin: Pass, options: Options) -> tuple[Measured, int]:
    # Everything that makes other bytes of the same files.
    state = hashlib.sha256(repr(("1", replace(options, path=b""))).encode())
    marks = [Mark(0, b"", state.copy())]
    stride = reach = _STRIDE
    newest = 0
    cursor = Cursor(read=False, note=True, limit=reach)
    with closing(begin(cursor, None)) as items:
        for item in items:
            beyond = not item.size or cursor.offset + item.size > cursor.limit
            if item.at is not None and beyond and cursor.offset > marks[-1].offset:
                if len(marks) == _MARKS:
                    del marks[1::2]
                    stride *= 2
                marks.append(Mark(cursor.offset, item.at, state.copy()))
                reach = stride
                cursor.limit = cursor.offset + reach
            elif not item.size:  # the next member alone is more than that
                reach *= 2
                cursor.limit = cursor.offset + reach
            state.update(item.facts)
            newest = max(newest, item.newest)
            cursor.offset += item.size
    etag = state.hexdigest()[:40]
    return Measured(cursor.offset + len(END), etag, tuple(marks), cursor.links), newest


@contextmanager
def outlined(begin: Pass, options: Options, title: str, end: Guard | None) -> Iterator[Outline]:
    """The outline of a source that stays open as long as the block does. `end` is the end check of every part."""
    found = measured(begin, options)
    yield Outline(found.size, found.etag, lambda span: _Part(begin, found, span, title, end).chunks())


class _Part:
    """The making of one part of an archive that was measured."""

    def __init__(self, begin: Pass, known: Measured, span: Span, title: str, end: Guard | None) -> None:
        self._begin = begin
        self._known = known
        self._body = known.size - len(END)
        self._start, self._stop = span
        self._title = title
        self._end = end
        place = bisect_right(known.marks, self._start, key=lambda mark: mark.offset)
        self._mark = known.marks[place - 1]
        self._ahead = list(reversed(known.marks[place:]))
        """The marks not reached yet, the next one last."""
        self._state = self._mark.state.copy()
        self._first: int | None = None
        """The byte that the pieces begin with, once there is one."""

    def chunks(self) -> Iterator[Chunk]:
        """Exactly the bytes of the span; the checks come before the last of them is passed on by `verified`."""
        skip, left = -1, self._stop - self._start
        with closing(joined(self._pieces())) as chunks:
            for chunk in chunks:
                if skip < 0:
                    skip = self._start - (self._body if self._first is None else self._first)
                wanted = chunk if not skip and len(chunk) <= left else chunk[skip : skip + left]
                skip = max(0, skip - len(chunk))
                left -= len(wanted)
                if wanted:
                    yield wanted

    def _pieces(self) -> Iterator[Piece]:
        """The members that the span touches, from `_first` on; then the checks."""
        mark = self._mark
        cursor = Cursor(read=self._start == mark.offset, note=True, strict=True, offset=mark.offset)
        cursor.limit = self._limit(cursor)
        resume = Resume(mark.at, mark.offset, self._known.links) if mark.offset else None
        with closing(self._begin(cursor, resume)) as items:
            for item in items:
                try:
                    at_mark = self._compare(cursor.offset)
                    if at_mark and cursor.offset >= self._stop:
                        break
                    if not item.size and not at_mark:
                        if cursor.read or cursor.offset >= self._stop:
                            raise self._changed()  # where a mark was, there is something else now
                        cursor.read = True  # the next member is the one that holds the first byte
                    else:
                        piece = self._wanted(cursor.offset, item)
                        if piece is not None:
                            yield piece
                        self._state.update(item.facts)
                        cursor.offset += item.size
                        cursor.read = self._start <= cursor.offset < self._stop
                    cursor.limit = self._limit(cursor)
                finally:
                    item.close()  # whoever took its piece has done so before
            else:
                self._compare(cursor.offset)
                if self._ahead or cursor.offset != self._body or self._state.hexdigest()[:40] != self._known.etag:
                    raise self._changed()
        if self._end is not None:
            self._end()

    def _limit(self, cursor: Cursor) -> int:
        """Where packed members end next: at a mark, or before the one that holds the first byte."""
        mark = self._ahead[-1].offset if self._ahead else NEVER
        return mark if cursor.read or cursor.offset >= self._stop else min(self._start, mark)

    def _compare(self, offset: int) -> bool:
        """Whether there is a mark at the offset; SourceChanged if it, or one before it, is not what it was."""
        met = False
        while self._ahead and self._ahead[-1].offset <= offset:
            mark = self._ahead.pop()
            if mark.offset != offset or mark.state.digest() != self._state.digest():
                raise self._changed()
            met = True
        return met

    def _wanted(self, offset: int, item: Item) -> Piece | None:
        """What the span wants of an item, to the block of 512 bytes."""
        if not item.size or offset + item.size <= self._start or offset >= self._stop:
            return None
        piece = item.piece
        if piece is None:
            if item.rest is None:
                raise self._changed()
            skip = max(0, self._start - offset) & -512
            piece = item.rest(skip)
            offset += skip
        if self._first is None:
            self._first = offset
        return _until(piece, self._stop - offset) if isinstance(piece, Encoded) else piece

    def _changed(self) -> SourceChanged:
        return SourceChanged(f"cannot export {self._title}: it was changed after its length was announced")


def _until(piece: Encoded, stop: int) -> Piece:
    """A member's first `stop` bytes, to the block of 512: what lies behind them is not read."""
    stored = min(piece.stored, -(-max(0, stop - len(piece.header)) // 512) * 512)
    if stored == piece.stored or piece.content is None or isinstance(piece.content, bytes):
        return piece
    return piece._replace(stored=stored, content=_First(piece.content, stored))


class _First:
    """The first `left` bytes of a content, which is closed with it."""

    def __init__(self, blocks: Iterator[Chunk], left: int) -> None:
        self._blocks = blocks
        self._left = left

    def __iter__(self) -> Iterator[Chunk]:
        return self

    def __next__(self) -> bytes:
        if not self._left:
            raise StopIteration
        block = next(self._blocks)[: self._left]
        self._left -= len(block)
        return block

    def close(self) -> None:
        close(self._blocks)
