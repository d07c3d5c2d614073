"""tar-split: what a layer's tar was made of besides the content of its files, so that it can be put together again.

The format is Docker's (`tar-split.json.gz`): gzip of JSON lines, in the order of the archive,
`{"type":2,"payload":BASE64,"position":N}` for raw bytes (at most 1 MiB in each of ours) and
`{"type":1,"name":S,"size":N,"payload":CRC,"position":N}` for each member: its content follows here. `name_raw` (base64)
stands in place of a name that is not UTF-8, `size` is left out when 0, then the CRC is null. The CRC is CRC-64/ISO,
8 bytes, big-endian. Members stored sparsely cannot be taken apart: they are raw as a whole and listed with size 0.

Here it is written; `records` reads it, `join` makes the tar of it again.
"""

from __future__ import annotations

import binascii
import json
from collections.abc import Iterator
from typing import BinaryIO

from fastcrc import crc64
from isal import isal_zlib

from streamer.tar.entry import Content, Entry
from streamer.tar.reader import Reader
from streamer.tar.source import Limits, Source

_SEGMENT = 1 << 20
_DEFAULT = Limits()


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
