"""How late the event loop is: what keeps it from one task keeps it from all."""

from __future__ import annotations

import time
from collections.abc import Callable

import anyio

_PERIOD = 0.25


async def sample(observe: Callable[[float], None], period: float = _PERIOD) -> None:
    """Tells, four times a second, by how many seconds a timer ran late; until cancelled."""
    while True:
        due = time.monotonic() + period
        await anyio.sleep(period)
        observe(max(0.0, time.monotonic() - due))
