"""The members of a saved image in their places: the length and the version of its archive, and any span of it."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Generator, Iterator, Sequence

from streamer.export.plan import Session, Span
from streamer.export.saved import Saved
from streamer.export.verify import verified
from streamer.tar.chunks import gathered
from streamer.tar.entry import Profile
from streamer.tar.header import encode

_END = bytes(1024)
_PADDING = bytes(511)


class Placed:
    """Members one after the other. Everything is known from their headers, nothing of a layer is looked at."""

    def __init__(self, members: Sequence[Saved]) -> None:
        self._members = members
        self._places: list[int] = []
        at = 0
        for item in members:
            self._places.append(at)
            at += len(_header(item)) + item.entry.size + -item.entry.size % 512
        self.size = at + len(_END)

    def etag(self) -> str:
        """A hash over all that the bytes follow from: every header, every document, every layer's digest."""
        hasher = hashlib.sha256()
        for item in self._members:
            hasher.update(_header(item))
            hasher.update(item.identity)
        return hasher.hexdigest()

    def part(self, session: Session, span: Span, title: str) -> Iterator[bytes]:
        """The bytes of a span, from the member on that holds the first of them; nothing of earlier ones is read.

        A layer wholly inside has its digest or raises SourceChanged; of one that is cut the files are checked as
        `Layer.assemble` does it. Every layer of the image, in the span or not, passes its store's end check before the
        last chunk is given.
        """
        start, stop = span
        return verified(gathered(self._pieces(session, start, stop)), title, stop - start, None)

    def _pieces(self, session: Session, start: int, stop: int) -> Generator[bytes, None, None]:
        first = max(bisect_right(self._places, start) - 1, 0)
        for item, at in zip(self._members[first:], self._places[first:], strict=True):
            if at >= stop:
                break
            session.check()
            session.report.entries += 1
            header, size = _header(item), item.entry.size
            yield header[_within(at, len(header), start, stop)]
            at += len(header)
            inside = _within(at, size, start, stop)
            if inside.start < inside.stop:
                yield from item.content(inside.start, inside.stop)
            at += size
            yield _PADDING[_within(at, -size % 512, start, stop)]
        # The guard of every layer was called when its last byte was read; this end check looks at all once more.
        for item in self._members:
            if item.layer is not None and item.layer.guard is not None:
                item.layer.guard()
        yield _END[_within(self.size - len(_END), len(_END), start, stop)]


def _header(item: Saved) -> bytes:
    return encode(item.entry, Profile.DOCKER)


def _within(at: int, size: int, start: int, stop: int) -> slice:
    """Which bytes of something that lies at `at` are in the span."""
    return slice(max(start - at, 0), max(min(stop - at, size), 0))
