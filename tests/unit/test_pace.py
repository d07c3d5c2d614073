"""A sender's time: what renews it, what counts against it, and what comes through."""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import pytest

from streamer import pace
from streamer.errors import Stalled
from streamer.pace import ENOUGH, Pace

SECONDS = 10.0


class Sender:
    """Sends so many bytes after so many seconds each, by a clock of its own; and then nothing."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, waits: Sequence[tuple[float, int]]) -> None:
        self.now = 0.0
        self._waits = list(waits)
        monkeypatch.setattr(pace.anyio, "current_time", lambda: self.now)

    async def receive(self) -> bytes:
        await anyio.lowlevel.checkpoint()
        if not self._waits:
            return b""
        seconds, size = self._waits.pop(0)
        self.now += seconds
        return b"x" * size


IN_TIME = {
    "fast": [(1, ENOUGH)] * 100,
    "just in time": [(9.9, ENOUGH)] * 100,
    "in small pieces": [(1, ENOUGH // 9 + 1)] * 100,
    "much at once, and then nothing": [(9.9, 10 * ENOUGH), (9.9, 1)],
}
TOO_SLOW = {
    "one byte now and then": ([(1, 1)] * 100, 10),
    "not quite enough": ([(1, ENOUGH // 11)] * 100, 10),
    "slow after a fast beginning": ([(1, ENOUGH)] * 5 + [(6, 1)] * 100, 7),
    "what was too much for once is not kept": ([(1, 10 * ENOUGH)] + [(6, ENOUGH - 1)] + [(5, 0)] * 100, 3),
}


@pytest.mark.parametrize("name", IN_TIME)
async def test_in_time(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sender, kept = Sender(monkeypatch, IN_TIME[name]), Pace(SECONDS, "cannot import")
    for _, size in IN_TIME[name]:
        assert len(await kept.wait(sender.receive)) == size


@pytest.mark.parametrize("name", TOO_SLOW)
async def test_too_slow(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    waits, count = TOO_SLOW[name]
    sender, kept = Sender(monkeypatch, waits), Pace(SECONDS, "cannot import")
    for _ in range(count):
        await kept.wait(sender.receive)
    with pytest.raises(Stalled, match=r"^cannot import: less than 65536 bytes came in 10 seconds$"):
        await kept.wait(sender.receive)


async def test_what_is_done_meanwhile_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    sender, kept = Sender(monkeypatch, [(0.1, 1)] * 50), Pace(SECONDS, "cannot import")
    for _ in range(50):
        await kept.wait(sender.receive)
        sender.now += 1000


async def test_nothing_at_all() -> None:
    ended = []

    async def receive() -> bytes:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append(True)
        return b""

    with pytest.raises(Stalled, match=r"^cannot fetch x: less than 65536 bytes came in 0\.02 seconds$"):
        await Pace(0.02, "cannot fetch x").wait(receive)
    assert ended


async def test_what_a_sender_fails_with_comes_through() -> None:
    async def receive() -> bytes:
        raise TimeoutError(110, "Connection timed out")

    with pytest.raises(TimeoutError, match="Connection timed out"):
        await Pace(SECONDS, "cannot import").wait(receive)


async def test_a_cancellation_comes_through() -> None:
    async def receive() -> bytes:
        await anyio.sleep_forever()
        return b""

    with anyio.move_on_after(0.02) as scope:
        await Pace(SECONDS, "cannot import").wait(receive)
    assert scope.cancelled_caught
