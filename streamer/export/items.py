"""What an archive is made of, piece by piece, as a pass over its source gives it: plain values between the modules that
walk (`pack`, `runs`) and those that send or measure (`outline`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from streamer.tar.writer import Encoded, Piece, close

NEVER = 1 << 62
"""An offset that no archive reaches."""

Identity: TypeAlias = tuple[int, ...]
"""What tells one file from another within a pass (`pack`)."""


@dataclass(slots=True)
class Item:
    """One member, or several small ones packed together, or none at all (`size` 0): the next entry is then one that
    reaches beyond the cursor's limit.

    `piece` is None if it was only measured; `rest(skip)` then opens it now, `skip` bytes (a multiple of 512) later.
    `facts` are what the archive's version depends on: who and where, times, never content. `newest` is the latest ctime
    of them in nanoseconds. At `at`, if not None, a walk can begin again with just this item.
    """

    size: int
    piece: Piece | None = None
    facts: bytes = b""
    newest: int = 0
    at: bytes | None = None
    rest: Callable[[int], Encoded] | None = None

    def close(self) -> None:
        """Closes the content that it has, for whoever takes nothing of it; once more is no failure."""
        if isinstance(self.piece, Encoded):
            close(self.piece.content)


@dataclass(slots=True)
class Cursor:
    """What the consumer of a pass wants of the items to come; looked at whenever the next one is made.

    `read`: contents as well. `note`: facts as well. `limit`: the byte of the archive that packed members shall not
    reach beyond. `offset`: where the next item begins. `strict`: a file must be what it was when it was looked at.
    """

    read: bool = True
    note: bool = False
    strict: bool = False
    offset: int = 0
    limit: int = NEVER
    links: dict[Identity, tuple[bytes, int]] = field(default_factory=dict)
    """The first name of each file that has several, and the offset of its member, as far as the pass has come."""


@dataclass(frozen=True, slots=True)
class Resume:
    """Where a pass begins, if not at the beginning; `links` is what the cursor of a pass from there had or has."""

    at: bytes
    offset: int
    links: Mapping[Identity, tuple[bytes, int]]


Pass: TypeAlias = Callable[[Cursor, Resume | None], Iterator[Item]]
"""Begins a pass over a source that is held open; whoever takes the items closes them."""
