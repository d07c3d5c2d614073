from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from support.faulty import Faulty, faulty

from streamer.client.patience import Limits
from streamer.client.watch import Watch

QUICK = Limits(first_pause=0.01, longest_pause=0.02, longest_retry_after=0.02, connect=60, answer=60, stall=60)
"""As the real ones, without the waiting."""


class Seen(Watch):
    """Keeps what it was told."""

    def __init__(self) -> None:
        self.steps: list[tuple[int, int | None, str]] = []
        self.notes: list[str] = []

    def progress(self, done: int, size: int | None, doing: str = "") -> None:
        self.steps.append((done, size, doing))

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture
def quick() -> Limits:
    return QUICK


@pytest.fixture(scope="session")
def content() -> bytes:
    """40 MiB in which no two places look alike."""
    import random

    return random.Random(1).randbytes(40 << 20)


@pytest.fixture(scope="session")
def later(content: bytes) -> bytes:
    """The same archive after a change."""
    return content[:100] + b"later" + content[105:]


@pytest.fixture
async def service(content: bytes, later: bytes) -> AsyncIterator[Faulty]:
    async with faulty(content, later) as made:
        yield made
