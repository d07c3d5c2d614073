"""What of an archive is there and what is missing, and how what is missing is divided among jobs."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import TypeAlias

Span: TypeAlias = tuple[int, int]
"""Bytes of an archive: the first, and the one behind the last."""

SMALLEST = 8 << 20
"""Bytes for which a request of their own is worth its while: the service looks at every file before it answers."""


class Spans:
    """A set of bytes: sorted spans that neither overlap nor touch."""

    def __init__(self, spans: Iterable[Span] = ()) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []
        for start, stop in spans:
            self.add(start, stop)

    def add(self, start: int, stop: int) -> None:
        if start >= stop:
            return
        low = bisect_left(self._stops, start)
        high = bisect_right(self._starts, stop)
        if low < high:
            start, stop = min(start, self._starts[low]), max(stop, self._stops[high - 1])
        self._starts[low:high] = [start]
        self._stops[low:high] = [stop]

    def __iter__(self) -> Iterator[Span]:
        return iter([*zip(self._starts, self._stops, strict=True)])

    @property
    def total(self) -> int:
        return sum(self._stops) - sum(self._starts)

    @property
    def prefix(self) -> int:
        """How many bytes there are from the first on without a gap."""
        return self._stops[0] if self._starts and self._starts[0] == 0 else 0

    def gaps(self, size: int) -> list[Span]:
        """What is missing of `size` bytes."""
        edges = zip([0, *self._stops], [*self._starts, size], strict=True)
        return [(start, stop) for start, stop in edges if start < stop]


class Piece:
    """What one job is at: it has come to `position` and goes on to `stop`, which another job may take nearer."""

    __slots__ = ("position", "stop")

    def __init__(self, start: int, stop: int) -> None:
        self.position = start
        self.stop = stop

    @property
    def left(self) -> int:
        return max(0, self.stop - self.position)

    @property
    def span(self) -> Span:
        return self.position, self.stop


class Division:
    """Gives every job its piece; to one that has finished, half of what the slowest still has to do."""

    def __init__(self, gaps: Iterable[Span], jobs: int) -> None:
        gaps = [*gaps]
        missing = sum(stop - start for start, stop in gaps)
        share = max(SMALLEST, -(-missing // jobs))
        self._waiting: list[Span] = []
        for start, stop in gaps:
            parts = max(1, round((stop - start) / share))
            edges = [start + (stop - start) * number // parts for number in range(parts + 1)]
            self._waiting += pairwise(edges)
        self._waiting.reverse()
        self._begun: list[Piece] = []

    def claim(self) -> Piece | None:
        """The next piece in order, None once nothing is left that is worth a request."""
        self._begun = [piece for piece in self._begun if piece.left]
        if self._waiting:
            piece = Piece(*self._waiting.pop())
        else:
            slowest = max(self._begun, key=lambda one: one.left, default=None)
            if slowest is None or slowest.left < 2 * SMALLEST:
                return None
            middle = slowest.position + slowest.left // 2
            piece = Piece(middle, slowest.stop)
            slowest.stop = middle
        self._begun.append(piece)
        return piece
