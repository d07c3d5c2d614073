"""tar-split: what a layer's tar was made of besides the content of its files, so that it can be put together again.

The format is Docker's (`tar-split.json.gz`): gzip of JSON lines, in the order of the archive,
`{"type":2,"payload":BASE64,"position":N}` for raw bytes (at most 1 MiB in each of ours) and
`{"type":1,"name":S,"size":N,"payload":CRC,"position":N}` for each member: its content follows here. `name_raw` (base64)
stands in place of a name that is not UTF-8, `size` is left out when 0, then the CRC is null. The CRC is CRC-64/ISO,
8 bytes, big-endian. Members stored sparsely cannot be taken apart: they are raw as a whole and listed with size 0.
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
from contextlib import closing
from dataclasses import dataclass
from typing import BinaryIO, TypeAlias, cast

from fastcrc import crc64
from isal import igzip, igzip_lib, isal_zlib

from streamer.errors import SourceChanged, StoreDamaged, shown
from streamer.tar.entry import Content, Entry
from streamer.tar.reader import Reader
from streamer.tar.source import Limits, Source

_SEGMENT = 1 << 20
_CHUNK = 256 << 10
_LINE = 64 << 20
"""Docker before 17.12 did not cut long paddings into segments, so its lines can be longer than ours."""
_DAMAGE = (OSError, EOFError, ValueError, zlib.error, cast("type[Exception]", igzip_lib.error))
_DEFAULT = Limits()
_gunzip: Callable[..., gzip.GzipFile] = igzip.IGzipFile


@dataclass(frozen=True, slots=True)
class Segment:
    """Raw bytes of the archive: headers, padding, the end."""

    data: bytes


@dataclass(frozen=True, slots=True)
class File:
    """A member, whose content (`size` bytes) follows here. `index` counts these records from 0."""

    index: int
    name: bytes
    size: int
    crc: bytes | None


Record: TypeAlias = "Segment | File"


class SplitWriter:
    """Writes records to `file`, which stays its owner's; the stream is whole only after `close()`."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._compressor = isal_zlib.compressobj(2, isal_zlib.DEFLATED, 31)
        self._position = 0
        self._held: list[bytes] = []
        self._size = 0

    def segment(self, data: bytes) -> None:
        """Raw bytes; neighbours are joined up to 1 MiB."""
        while self._size + len(data) >= _SEGMENT:
            room = _SEGMENT - self._size
            self._held.append(data[:room])
            self._flush()
            data = data[room:]
        if data:
            self._held.append(data)
            self._size += len(data)

    def file(self, name: bytes, size: int, crc: bytes | None) -> None:
        """A member whose content follows the segments written so far; `crc` is None exactly for an empty one."""
        self._flush()
        try:
            fields = f'"name":{_go_json(name.decode("utf-8"))}'
        except UnicodeDecodeError:
            fields = f'"name_raw":"{_base64(name)}"'
        if size:
            fields += f',"size":{size}'
        payload = "null" if crc is None else f'"{_base64(crc)}"'
        self._line(f'{{"type":1,{fields},"payload":{payload},"position":{self._position}}}\n')

    def close(self) -> None:
        self._flush()
        self._file.write(self._compressor.flush())

    def _flush(self) -> None:
        if self._held:
            payload = _base64(b"".join(self._held))
            self._held, self._size = [], 0
            self._line(f'{{"type":2,"payload":"{payload}","position":{self._position}}}\n')

    def _line(self, line: str) -> None:
        self._position += 1
        self._file.write(self._compressor.compress(line.encode("utf-8")))


def record(
    source: Source, split: SplitWriter, *, limits: Limits = _DEFAULT, terminated: bool = True
) -> Iterator[tuple[Entry, Content]]:
    """The members of an archive, while its records are written to `split`.

    A content must be used before the iterator is advanced; what is not used is read all the same. After the last member
    the source is read to its end; only then may `split` be closed (by the caller) and is it worth keeping. `terminated`
    is `Reader`'s.
    """
    reader = Reader(source, limits=limits, raw=split.segment, terminated=terminated)
    for entry in reader:
        if entry.sparse is not None or not entry.size:
            yield entry, reader.content() if entry.stored else None
            for _ in reader.content():
                pass
            split.file(entry.name, 0, None)
            continue
        content = _Checked(reader.content())
        yield entry, content
        for _ in content:
            pass
        split.file(entry.name, entry.size, content.crc.to_bytes(8, "big"))


class _Checked(Iterator[bytes]):
    """Blocks passing through, and the CRC of all that passed."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self.crc = 0

    def __next__(self) -> bytes:
        block = next(self._blocks)
        self.crc = crc64.go_iso(block, self.crc)
        return block


def records(file: BinaryIO) -> Generator[Record, None, None]:
    """The records in order, read line by line; `file` stays its owner's. Raises StoreDamaged."""
    index = 0
    try:
        with _gunzip(fileobj=file, mode="rb") as lines:
            position = 0
            while line := lines.readline(_LINE):
                found = _parsed(line, index, position)
                index += isinstance(found, File)
                position += 1
                yield found
            if not position:
                raise ValueError("it has no records")
    except _DAMAGE as error:
        raise StoreDamaged(f"a tar-split file cannot be read: {error}") from error


def _parsed(line: bytes, index: int, position: int) -> Record:
    """Raises ValueError."""
    fields = json.loads(line)
    if not isinstance(fields, dict) or not line.endswith(b"\n"):
        raise ValueError(f"record {position} is no complete object")
    kind, payload = fields.get("type"), fields.get("payload")
    if fields.get("position") != position:
        raise ValueError(f"record {position} is out of order")
    data = None if payload is None else _unbase64(payload)
    if kind == 2 and data is not None:
        return Segment(data)
    size = fields.get("size", 0)
    name, raw = fields.get("name", ""), fields.get("name_raw")
    if kind != 1 or not isinstance(name, str) or type(size) is not int or size < 0:
        raise ValueError(f"record {position} is of no known kind")
    if size and (data is None or len(data) != 8):
        raise ValueError(f"record {position} has no CRC")
    return File(index, name.encode("utf-8") if raw is None else _unbase64(raw), size, data)


def assemble(file: BinaryIO, content: Callable[[File], Iterator[bytes]]) -> Iterator[bytes]:
    """The archive, in chunks of 256 KiB and more; `content` is asked for each file that is not empty, in order, and
    what it gives is closed. Raises SourceChanged naming the file whose content is not what it was, StoreDamaged.
    """
    gathered: list[bytes] = []
    held = 0
    with closing(_pieces(file, content)) as pieces:
        for piece in pieces:
            if len(piece) >= _CHUNK:
                if gathered:
                    yield b"".join(gathered)
                    gathered, held = [], 0
                yield piece
                continue
            gathered.append(piece)
            held += len(piece)
            if held >= _CHUNK:
                yield b"".join(gathered)
                gathered, held = [], 0
    if held:
        yield b"".join(gathered)


def _pieces(file: BinaryIO, content: Callable[[File], Iterator[bytes]]) -> Generator[bytes, None, None]:
    with closing(records(file)) as found:
        for each in found:
            if isinstance(each, Segment):
                yield each.data
            elif each.size:
                yield from _content(each, content(each))


def _content(file: File, blocks: Iterator[bytes]) -> Iterator[bytes]:
    crc, missing = 0, file.size
    try:
        for block in blocks:
            missing -= len(block)
            if missing < 0:
                raise _changed(file, f"has more than its {file.size} bytes")
            crc = crc64.go_iso(block, crc)
            if not missing and crc.to_bytes(8, "big") != file.crc:
                break  # the last block is not given before the whole is known to be right
            yield block
    finally:
        close = getattr(blocks, "close", None)
        if close is not None:
            close()
    if missing:
        raise _changed(file, f"has {missing} of its {file.size} bytes too few")
    if crc.to_bytes(8, "big") != file.crc:
        raise _changed(file, "has another content (CRC-64)")


def length(file: BinaryIO) -> int:
    """The length of the archive that `assemble` makes of the same file. Raises StoreDamaged.

    Lines of the usual form are measured where they lie and only others parsed: five times as fast, which tells where a
    listing looks at many layers. Whether a payload is base64 is left for `assemble` to find out.
    """
    total = position = 0
    try:
        with _gunzip(fileobj=file, mode="rb") as unpacked, io.BufferedReader(unpacked, _CHUNK) as lines:
            while line := lines.readline(_LINE):
                size = _measured(line, b',"position":%d}\n' % position)
                if size is None:
                    found = _parsed(line, 0, position)
                    size = len(found.data) if isinstance(found, Segment) else found.size
                total += size
                position += 1
            if not position:
                raise ValueError("it has no records")
    except _DAMAGE as error:
        raise StoreDamaged(f"a tar-split file cannot be read: {error}") from error
    return total


_RAW = b'{"type":2,"payload":"'
_FILE = b'{"type":1,"name'
_SIZE = re.compile(rb',"size":([1-9][0-9]{0,17}),"payload":"[A-Za-z0-9+/]{11}="')
_PADDING = ord("=")


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


def _changed(file: File, what: str) -> SourceChanged:
    member = shown(file.name)
    return SourceChanged(f"{member!r} {what} than when its layer was stored", member=member)


def _go_json(text: str) -> str:
    """As Go's encoder writes it, which escapes what would matter inside of HTML."""
    quoted = json.dumps(text, ensure_ascii=False)
    if any(character in quoted for character in _GO_ESCAPES):
        for character, escape in _GO_ESCAPES.items():
            quoted = quoted.replace(character, escape)
    return quoted


_GO_ESCAPES = {character: f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}


def _base64(data: bytes) -> str:
    return binascii.b2a_base64(data, newline=False).decode("ascii")


def _unbase64(text: object) -> bytes:
    if not isinstance(text, str):
        raise ValueError("a payload is no text")
    return base64.b64decode(text, validate=True)
