"""How long a service is waited for, and how often it is tried again."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import anyio

from streamer.client.failure import Transient


@dataclass(frozen=True, slots=True)
class Limits:
    """In seconds, where nothing else is said."""

    connect: float = 20
    answer: float = 600
    """Until an answer's headers: a service that tells a length looks at every file first."""
    stall: float = 60
    """Without a byte of a body."""
    digest_rate: int = 4 << 20
    """Bytes that a service surely reads in a second when it is asked for a digest; `answer` comes on top."""
    tries: int = 8
    """Failures in a row that are borne, less than `progress` bytes apart, before one is the last."""
    progress: int = 1 << 20
    first_pause: float = 0.5
    """Before the second try; each further one waits twice as long, up to `longest_pause`."""
    longest_pause: float = 15
    longest_retry_after: float = 60
    """How much of a Retry-After is obeyed."""
    restarts: int = 3
    """How often a download begins anew because the source has changed."""


class Patience:
    """Of one job: bears failures as long as bytes come between them."""

    def __init__(self, limits: Limits, say: Callable[[str], None]) -> None:
        self._limits = limits
        self._say = say
        self._failures = 0
        self._received = 0

    async def bear(self, failure: Transient, received: int) -> None:
        """Waits until the next try; raises the failure's error if it was one too many. `received` counts all bytes of
        use so far."""
        limits = self._limits
        if received - self._received >= limits.progress:
            self._failures, self._received = 0, received
        self._failures += 1
        if self._failures >= limits.tries:
            raise failure.error
        pause = min(limits.first_pause * 2 ** (self._failures - 1), limits.longest_pause)
        # Half of it by chance: clients that failed together should not come back together.
        pause *= random.uniform(0.5, 1)
        pause = max(pause, min(failure.wait, limits.longest_retry_after))
        self._say(f"try {self._failures + 1} of {limits.tries} in {pause:.0f} s: {failure.error}")
        await anyio.sleep(pause)
