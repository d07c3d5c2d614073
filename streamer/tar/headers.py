"""The headers of a layer's tar without its files' content, read from its tar-split records alone."""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator
from contextlib import closing
from typing import BinaryIO

from streamer.errors import InvalidArchive, StoreDamaged, Unsupported
from streamer.tar.entry import Entry
from streamer.tar.reader import Reader
from streamer.tar.records import Record, records
from streamer.tar.source import Limits

_ZEROS = bytes(1 << 20)
_CHECKED = Limits(entries=sys.maxsize, total=sys.maxsize)
"""What was stored has been counted already."""


def headers(file: BinaryIO) -> Generator[Entry, None, None]:
    """Each member of the archive, in order: as many as there are `File` records, and numbered as they are. No content
    is read: zeros stand for it, at no more than their copying costs. `file` stays its owner's. Raises StoreDamaged."""
    with closing(records(file)) as found:
        try:
            # Whether the archive had an end is for those to say who took it in.
            yield from Reader(_Hollow(found), limits=_CHECKED, terminated=False)
        except (InvalidArchive, Unsupported) as error:
            raise StoreDamaged(f"a tar-split file does not hold the headers of an archive: {error}") from error


class _Hollow:
    """The bytes of the archive, with zeros for the content of its members."""

    def __init__(self, found: Iterator[tuple[int, Record]]) -> None:
        self._found = found
        self._raw = b""
        self._zeros = 0

    def read(self, size: int, /) -> bytes:
        while not self._raw and not self._zeros:
            _, record = next(self._found, (0, None))
            if record is None:
                return b""
            if isinstance(record, bytes):
                self._raw = record
            else:
                self._zeros = record.size
        if self._raw:
            part, self._raw = self._raw[:size], self._raw[size:]
            return part
        part = _ZEROS[: min(size, self._zeros)]
        self._zeros -= len(part)
        return part
