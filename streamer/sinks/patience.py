"""How long object storage is waited for, and how often it is tried again."""

from __future__ import annotations

import random
from dataclasses import dataclass

import anyio

from streamer.errors import StreamerError


class Transient(Exception):
    """A failure that the next try may not meet; `error` is what to raise after the last one."""

    def __init__(self, error: StreamerError) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass(frozen=True, slots=True)
class Patience:
    """For one call; seconds."""

    tries: int = 8
    first_pause: float = 0.25
    """Before the second try; each further one waits twice as long, up to `longest_pause`."""
    longest_pause: float = 15
    connect: float = 10
    answer: float = 60
    """For one try, besides the time for what it sends."""
    slowest: int = 128 << 10
    """Bytes of a part that are surely sent in a second."""
    abort: float = 30
    """For taking an upload back, also when the process is about to end. What is left then is left to a sweep."""

    @property
    def longest(self) -> float:
        """Seconds that a call without a body takes at most, with all its tries."""
        pauses = (min(self.first_pause * 2.0**number, self.longest_pause) for number in range(self.tries - 1))
        return self.tries * self.limit(0) + sum(pauses)

    def limit(self, size: int) -> float:
        """Seconds for one try of a call that sends so many bytes."""
        return self.answer + size / self.slowest

    async def bear(self, failures: int, failure: Transient) -> None:
        """Waits until the next try; raises the failure's error if it was one too many."""
        if failures >= self.tries:
            raise failure.error from failure.__cause__
        pause = min(self.first_pause * 2 ** (failures - 1), self.longest_pause)
        # Half of it by chance: uploads that failed together should not come back together.
        await anyio.sleep(pause * random.uniform(0.5, 1))
