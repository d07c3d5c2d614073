"""Archives made by walking: opened once, then passed over as often as needed (measured, sent whole, sent in part)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TypeAlias

from streamer.export.closing import closing
from streamer.export.items import Cursor, Item, Pass
from streamer.export.outline import outlined
from streamer.export.plan import Options, Outline, Session
from streamer.stores.base import Guard
from streamer.tar.region import Chunk
from streamer.tar.writer import Piece, joined

Opening: TypeAlias = Callable[[Session], AbstractContextManager[Pass]]


@dataclass(frozen=True, slots=True)
class Walked:
    """`open` leases what is walked for as long as its block is open."""

    open: Opening
    options: Options
    title: str

    def chunks(self, guard: Guard | None, session: Session) -> Iterator[Chunk]:
        """The whole archive at once; `guard` is called after the last byte was read."""
        with self.open(session) as begin, closing(joined(_pieces(begin(Cursor(), None), guard))) as chunks:
            yield from chunks

    @contextmanager
    def outline(self, guard: Guard | None, session: Session) -> Iterator[Outline]:
        """The archive measured; each part of it ends with `guard`."""
        with self.open(session) as begin, outlined(begin, self.options, self.title, guard) as outline:
            session.report.clear()  # what was met while measuring is met once more
            yield outline


def _pieces(items: Iterator[Item], guard: Guard | None) -> Iterator[Piece]:
    with closing(items):
        for item in items:
            if item.piece is not None:
                yield item.piece
    if guard is not None:
        guard()
