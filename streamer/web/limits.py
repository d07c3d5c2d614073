"""What one client may take of the service, and how long it may take it without going on."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from streamer.errors import TooManyRequests
from streamer.export.exporter import RETRY_AFTER

_KNOWN = 4096
"""Clients remembered; of more, those are forgotten first that have asked for nothing lately."""


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds: for a request's headers from their first byte on, and for the first byte; for a connection between two
    requests; for a peer that acknowledges nothing of what was sent to it."""

    headers: float = 10
    idle: float = 75
    unacknowledged: float = 95


class Connections:
    """The books of open connections. None is no limit."""

    def __init__(self, limit: int | None = None, limit_per_peer: int | None = None) -> None:
        self._limit = limit
        self._limit_per_peer = limit_per_peer
        self._peers: Counter[str] = Counter()
        self.open = 0
        self.refused = 0
        """Connections there was no room for, since the start."""
        self.slow = 0
        """Connections closed because a request's headers did not come in time, since the start."""

    def __repr__(self) -> str:
        return f"<Connections {self.open} open of {len(self._peers)} peers, {self.refused} refused>"

    def enter(self, peer: str) -> bool:
        """Whether there is room for one more of this peer; then it is in the books until `leave`."""
        full = self._limit is not None and self.open >= self._limit
        if full or (self._limit_per_peer is not None and self._peers[peer] >= self._limit_per_peer):
            self.refused += 1
            return False
        self.open += 1
        self._peers[peer] += 1
        return True

    def leave(self, peer: str) -> None:
        self.open -= 1
        self._peers[peer] -= 1
        if not self._peers[peer]:
            del self._peers[peer]


class Shares:
    """What each client may ask for: requests a second (twice as many at once), and exports open at a time. None is no
    limit. A client is a token, or an address where there are none."""

    def __init__(
        self,
        rate: float | None = None,
        exports: int | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rate = rate
        self._exports = exports
        self._clock = clock
        self._left: dict[str, tuple[float, float]] = {}
        """Requests left at a moment, by client; the one that asked last stands last."""
        self._open: Counter[str] = Counter()

    def request(self, client: str) -> None:
        """One request more. TooManyRequests if the client has used up its share."""
        if self._rate is None:
            return
        now, most = self._clock(), max(2 * self._rate, 1)
        left, then = self._left.pop(client, (most, now))
        left = min(most, left + (now - then) * self._rate)
        allowed = left >= 1
        self._left[client] = (left - allowed, now)
        if len(self._left) > _KNOWN:
            del self._left[next(iter(self._left))]
        if not allowed:
            raise TooManyRequests(
                f"{client} asks for more than {self._rate:g} requests a second",
                retry_after=math.ceil((1 - left) / self._rate),
            )

    @contextmanager
    def export(self, client: str) -> Iterator[None]:
        """One export more while the block is open. TooManyRequests if the client has as many open as it may."""
        if self._exports is not None and self._open[client] >= self._exports:
            raise TooManyRequests(
                f"{client} has {self._exports} exports open, as many as one client may; try again later",
                retry_after=RETRY_AFTER,
            )
        self._open[client] += 1
        try:
            yield
        finally:
            self._open[client] -= 1
            if not self._open[client]:
                del self._open[client]
