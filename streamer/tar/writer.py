"""Members to a tar stream: large chunks, nothing large copied, a member that lies about its size is an error."""

from __future__ import annotations

from collections.abc import Iterator

from streamer.errors import SourceChanged, shown
from streamer.tar.entry import Content, Entry, Member, Profile
from streamer.tar.header import encode

_FIRST = 16 << 10
_CHUNK = 256 << 10
_PADDING = tuple(bytes(-size % 512) for size in range(512))
_END = bytes(1024)


def archive(members: Iterator[Member], profile: Profile) -> Iterator[bytes]:
    """The archive as non-empty chunks: small members are gathered to 256 KiB (the first time to 16 KiB, so that a
    client sees bytes early), a block of 256 KiB or more is passed through as the same object.

    A member's content is used up before `members` is advanced, and `members` is used up before the two zero blocks at
    the end are made, so a generator can make a last check of its source there. On every way out the content iterator in
    use and `members` are closed. Raises SourceChanged naming the member if its content is not exactly `entry.stored`
    bytes, Unsupported if its header cannot be written, and whatever the iterators raise.
    """
    gathered: list[bytes] = []
    held = 0
    enough = _FIRST
    try:
        for entry, content in members:
            try:
                header = encode(entry, profile)
                gathered.append(header)
                held += len(header)
                stored = entry.stored
                if not content:
                    if stored:
                        raise _changed(entry, 0)
                elif isinstance(content, bytes):
                    if len(content) != stored:
                        raise _changed(entry, len(content))
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
                            raise _changed(entry, stored - missing)
                        if len(block) < _CHUNK:
                            gathered.append(block)
                            held += len(block)
                            if held < enough:
                                continue
                            yield b"".join(gathered)
                        else:
                            if gathered:
                                yield b"".join(gathered)
                            yield block
                        gathered, held, enough = [], 0, _CHUNK
                    if missing:
                        raise _changed(entry, stored - missing)
                tail = stored & 511
                if tail:
                    gathered.append(_PADDING[tail])
                    held += 512 - tail
            finally:
                _close(content)
            if held >= enough:
                yield b"".join(gathered)
                gathered, held, enough = [], 0, _CHUNK
        gathered.append(_END)
        yield b"".join(gathered)
    finally:
        _close(members)


def _close(iterator: Content | Iterator[Member]) -> None:
    close = getattr(iterator, "close", None)
    if close is not None:
        close()


def _changed(entry: Entry, given: int) -> SourceChanged:
    member = shown(entry.name)
    relation = "more" if given > entry.stored else "fewer"
    return SourceChanged(
        f"{member!r} gave {relation} bytes than the {entry.stored} its header promised: it changed while it was read",
        member=member,
    )
