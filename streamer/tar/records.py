"""The records of a tar-split file (see `split`), read line by line.

Lines of the form that every writer gives them are read where they lie, five times as fast as JSON in general; any other
is parsed.
"""

from __future__ import annotations

import base64
import binascii
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from typing import BinaryIO, NamedTuple, TypeAlias, cast

from isal import igzip, igzip_lib
from pybase64 import b64decode

from streamer.errors import StoreDamaged

_BUFFER = 256 << 10
_LINE = 64 << 20
"""Docker before 17.12 did not cut long paddings into segments, so its lines can be longer than ours."""
_DAMAGE = (OSError, EOFError, ValueError, zlib.error, cast("type[Exception]", igzip_lib.error))
_gunzip: Callable[..., gzip.GzipFile] = igzip.IGzipFile


class File(NamedTuple):
    """A member, whose content (`size` bytes) follows here. `number` counts these records from 0."""

    number: int
    name: bytes
    size: int
    crc: bytes | None


Record: TypeAlias = "bytes | File"
"""What one line stands for: raw bytes of the archive (headers, padding, the end), or a member's content."""


def records(file: BinaryIO, start: int = 0) -> Generator[tuple[int, Record], None, None]:
    """Each record and where in the archive its bytes begin, in order; `file` stays its owner's. Raises StoreDamaged.

    Records whose bytes end before `start` are left out: they are measured only, not even their base64 is looked at.
    """
    at = number = 0
    position = -1
    with _lines(file) as lines:
        for position, line in enumerate(lines):
            end = b',"position":%d}\n' % position
            if at < start:
                size = _measured(line, end)
                if size is not None and at + size <= start:
                    at += size
                    number += line.startswith(_FILE)
                    continue
            record = _usual(line, end, number)
            if record is None:
                record = _parsed(line, number, position)
            if isinstance(record, bytes):
                size = len(record)
            else:
                size = record.size
                number += 1
            if at >= start or at + size > start:
                yield at, record
            at += size
        _refuse_nothing(position)


def length(file: BinaryIO) -> int:
    """The length of the archive that the records add up to. Raises StoreDamaged.

    Whether a payload is base64 is left for those to find out who read it.
    """
    total = 0
    position = -1
    with _lines(file) as lines:
        for position, line in enumerate(lines):
            size = _measured(line, b',"position":%d}\n' % position)
            if size is None:
                record = _parsed(line, 0, position)
                size = len(record) if isinstance(record, bytes) else record.size
            total += size
        _refuse_nothing(position)
    return total


@contextmanager
def _lines(file: BinaryIO) -> Iterator[Iterator[bytes]]:
    """The lines, unpacked; what goes wrong with them in the block is StoreDamaged."""
    try:
        with _gunzip(fileobj=file, mode="rb") as unpacked, io.BufferedReader(unpacked, _BUFFER) as lines:
            yield iter(partial(lines.readline, _LINE), b"")
    except _DAMAGE as error:
        raise StoreDamaged(f"a tar-split file cannot be read: {error}") from error


def _refuse_nothing(last: int) -> None:
    if last < 0:
        raise ValueError("it has no records")


_RAW = b'{"type":2,"payload":"'
_FILE = b'{"type":1,"name'
_SIZE = re.compile(rb',"size":([1-9][0-9]{0,17}),"payload":"[A-Za-z0-9+/]{11}="')
_QUOTE, _PADDING = b'"='
# Without a quote, a backslash, a control character or anything beyond ASCII the name is what stands there.
_PLAIN = re.compile(
    rb'\{"type":1,"name":"([ !#-\[\]-~]*)",'
    rb'(?:"size":([1-9][0-9]{0,17}),"payload":"([A-Za-z0-9+/]{11}=)"|"payload":null)'
)


def _measured(line: bytes, end: bytes) -> int | None:
    """How many bytes of the archive the line stands for; None unless it is of the form that every writer gives it."""
    if not line.endswith(end):
        return None
    stop = len(line) - len(end)
    if line.startswith(_RAW):
        size, rest = divmod(stop - 1 - len(_RAW), 4)
        if rest or size < 1 or line.find(b'"', len(_RAW)) != stop - 1:
            return None
        return 3 * size - (line[stop - 2] == _PADDING) - (line[stop - 3] == _PADDING)
    if not line.startswith(_FILE):
        return None
    # Within a name a quote is escaped: none there follows a comma.
    place = line.rfind(b',"size":')
    if place < 0:
        return 0 if line.endswith(b'","payload":null', 0, stop) else None
    found = _SIZE.fullmatch(line, place, stop)
    return None if found is None else int(found[1])


def _usual(line: bytes, end: bytes, number: int) -> Record | None:
    """The record; None unless the line is of the form that nearly all have."""
    if not line.endswith(end):
        return None
    stop = len(line) - len(end)
    if line.startswith(_RAW):
        if stop <= len(_RAW) or line[stop - 1] != _QUOTE:
            return None
        try:
            return b64decode(memoryview(line)[len(_RAW) : stop - 1], validate=True)
        except ValueError:
            return None  # damage, or further fields: parsing tells them apart
    found = _PLAIN.fullmatch(line, 0, stop)
    if found is None:
        return None
    name, size, crc = found.groups()
    return File(number, name, 0, None) if size is None else File(number, name, int(size), binascii.a2b_base64(crc))


def _parsed(line: bytes, number: int, position: int) -> Record:
    """Raises ValueError."""
    fields = json.loads(line)
    if not isinstance(fields, dict) or not line.endswith(b"\n"):
        raise ValueError(f"record {position} is no complete object")
    kind, payload = fields.get("type"), fields.get("payload")
    if fields.get("position") != position:
        raise ValueError(f"record {position} is out of order")
    data = None if payload is None else _unbase64(payload)
    if kind == 2 and data is not None:
        return data
    size = fields.get("size", 0)
    name, raw = fields.get("name", ""), fields.get("name_raw")
    if kind != 1 or not isinstance(name, str) or type(size) is not int or size < 0:
        raise ValueError(f"record {position} is of no known kind")
    if size and (data is None or len(data) != 8):
        raise ValueError(f"record {position} has no CRC")
    return File(number, name.encode("utf-8") if raw is None else _unbase64(raw), size, data)


def _unbase64(text: object) -> bytes:
    if not isinstance(text, str):
        raise ValueError("a payload is no text")
    return base64.b64decode(text, validate=True)
