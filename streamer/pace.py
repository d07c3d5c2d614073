"""How slowly a sender may send: the time that it has, and how many bytes renew it.

If every byte did, one now and then would keep a transfer open for ever.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio

from streamer.errors import Stalled

ENOUGH = 64 << 10
"""Bytes that renew the time."""


class Pace:
    """The time that one sender has for its next `ENOUGH` bytes. `cannot` begins the message of Stalled."""

    def __init__(self, seconds: float, cannot: str) -> None:
        self._seconds = seconds
        self._cannot = cannot
        self._left = seconds
        self._came = 0

    async def wait(self, receive: Callable[[], Awaitable[bytes]]) -> bytes:
        """What `receive` gives; Stalled if the time is over before. What it raises comes out as it is.

        Only this wait counts against the sender, not what is done with its bytes before the next one.
        """
        began = anyio.current_time()
        with anyio.move_on_after(self._left):
            data = await receive()
            self._left -= anyio.current_time() - began
            self._came += len(data)
            if self._came >= ENOUGH:
                self._came, self._left = 0, self._seconds
            return data
        raise Stalled(f"{self._cannot}: less than {ENOUGH} bytes came in {self._seconds:g} seconds")
