"""tar-split data of archives made by a test, and damaged ones."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable

from streamer.tar import join, split
from streamer.tar.records import File
from streamer.tar.split import SplitWriter


def recorded(data: bytes, *, consume: bool = True) -> tuple[io.BytesIO, list[bytes]]:
    """The tar-split file of an archive, and the content of each of its members (b"" where it has none of its own)."""
    file, contents = io.BytesIO(), []
    writer = SplitWriter(file)
    for entry, content in split.record(io.BytesIO(data), writer):
        given = b"".join(content) if consume and content is not None and not isinstance(content, bytes) else b""
        contents.append(b"" if entry.sparse is not None else given)
    writer.close()
    file.seek(0)
    return file, contents


def whole(contents: list[bytes]) -> join.Contents:
    """Each content as one object, as small files are given."""
    return lambda found, start, stop: contents[found.number]


def blockwise(contents: list[bytes], size: int) -> join.Contents:
    """Each content in blocks of at most `size` bytes, as large files are given: just the span that was asked for."""

    def given(found: File, start: int, stop: int) -> object:
        content = contents[found.number][start:stop]
        return iter([content[at : at + size] for at in range(0, len(content), size)])

    return given  # type: ignore[return-value]


def assembled(
    file: io.BytesIO,
    contents: list[bytes],
    start: int = 0,
    stop: int | None = None,
    given: Callable[[list[bytes]], join.Contents] = whole,
) -> bytes:
    file.seek(0)
    return b"".join(join.assemble(file, given(contents), start, stop))


def lines(file: io.BytesIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in gzip.decompress(file.getvalue()).splitlines()]


def packed(*objects: object) -> io.BytesIO:
    """Lines that no writer would write so: with spaces in them."""
    return io.BytesIO(gzip.compress(b"".join(json.dumps(each).encode() + b"\n" for each in objects), mtime=0))


def terse(*objects: object) -> bytes:
    """Lines as Go writes them: no spaces."""
    return b"".join(json.dumps(each, separators=(",", ":"), ensure_ascii=False).encode() + b"\n" for each in objects)
