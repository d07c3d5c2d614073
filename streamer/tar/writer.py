"""Members to a tar stream: large chunks, nothing large copied, a member that lies about its size is an error."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

from streamer.errors import SourceChanged, shown
from streamer.tar.entry import Content, Member, Profile
from streamer.tar.header import encode
from streamer.tar.region import Chunk

_CHUNK = 256 << 10
_PADDING = tuple(bytes(-size % 512) for size in range(512))
END = bytes(1024)
"""What an archive ends with."""


class Encoded(NamedTuple):
    """A member whose header was made: exactly `stored` bytes of content follow it, and their padding to 512 bytes."""

    name: bytes
    header: bytes
    stored: int
    content: Content | Iterator[Chunk]

    @property
    def size(self) -> int:
        """Bytes of the archive."""
        return len(self.header) + self.stored + -self.stored % 512


Piece: TypeAlias = "bytes | Encoded"
"""One member, or the bytes of several whole ones."""


def archive(members: Iterator[Member], profile: Profile) -> Iterator[bytes]:
    """The archive of `members` as `joined` makes it; Unsupported naming the member if its header cannot be written."""
    chunks = joined(_encoded(members, profile))
    try:
        for chunk in chunks:
            yield bytes(chunk)
    finally:
        close(chunks)


def _encoded(members: Iterator[Member], profile: Profile) -> Iterator[Encoded]:
    try:
        for entry, content in members:
            try:
                header = encode(entry, profile)
            except BaseException:
                close(content)
                raise
            yield Encoded(entry.name, header, entry.stored, content)
    finally:
        close(members)


def joined(pieces: Iterator[Piece]) -> Iterator[Chunk]:
    """The archive as non-empty chunks: small pieces are gathered to 256 KiB, a block of 256 KiB or more, and a region,
    is passed through as the same object. The first piece leaves by itself: the next may be long in coming.

    A member's content is used up before `pieces` is advanced, and `pieces` is used up before the two zero blocks at
    the end are made, so a generator can make a last check of its source there. On every way out the content iterator in
    use and `pieces` are closed. Raises SourceChanged naming the member if its content is not exactly `stored` bytes,
    and whatever the iterators raise.
    """
    gathered: list[bytes] = []
    held = 0
    enough = 1
    try:
        for piece in pieces:
            if isinstance(piece, bytes):
                if len(piece) >= _CHUNK:
                    if gathered:
                        yield b"".join(gathered)
                    yield piece
                    gathered, held, enough = [], 0, _CHUNK
                    continue
                gathered.append(piece)
                held += len(piece)
            else:
                name, header, stored, content = piece
                try:
                    gathered.append(header)
                    held += len(header)
                    if not content:
                        if stored:
                            raise _changed(name, stored, 0)
                    elif isinstance(content, bytes):
                        if len(content) != stored:
                            raise _changed(name, stored, len(content))
                        if stored >= _CHUNK:
                            yield b"".join(gathered)
                            yield content
                            gathered, held, enough = [], 0, _CHUNK
                        else:
                            gathered.append(content)
                            held += stored
                    else:
                        missing = stored
                        for block in content:
                            missing -= len(block)
                            if missing < 0:
                                raise _changed(name, stored, stored - missing)
                            if len(block) < _CHUNK and isinstance(block, bytes):
                                gathered.append(block)
                                held += len(block)
                                if held < enough:
                                    continue
                                yield b"".join(gathered)
                            else:
                                if held:
                                    yield b"".join(gathered)
                                yield block
                            gathered, held, enough = [], 0, _CHUNK
                        if missing:
                            raise _changed(name, stored, stored - missing)
                    tail = stored & 511
                    if tail:
                        gathered.append(_PADDING[tail])
                        held += 512 - tail
                finally:
                    close(content)
            if held >= enough:
                yield b"".join(gathered)
                gathered, held, enough = [], 0, _CHUNK
        gathered.append(END)
        yield b"".join(gathered)
    finally:
        close(pieces)


def close(iterator: object) -> None:
    """Closes an iterator, or a content, that can be closed."""
    closing = getattr(iterator, "close", None)
    if closing is not None:
        closing()


def _changed(name: bytes, stored: int, given: int) -> SourceChanged:
    member = shown(name)
    relation = "more" if given > stored else "fewer"
    return SourceChanged(
        f"{member!r} gave {relation} bytes than the {stored} its header promised: it changed while it was read",
        member=member,
    )
