"""Places for work that takes long: builds, copies and contexts that are being fetched."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TypeVar

import anyio
from anyio import CapacityLimiter

from streamer.errors import Busy
from streamer.export.exporter import RETRY_AFTER

T = TypeVar("T")


class Slot:
    """One of the builds and copies that may be under way. It is taken when a request comes, and given back when its
    work has ended, or when the request has if that was never begun. Busy if there is none."""

    def __init__(self, limiter: CapacityLimiter) -> None:
        self._limiter = limiter
        self._begun = False
        try:
            limiter.acquire_on_behalf_of_nowait(self)
        except anyio.WouldBlock:
            raise Busy(
                f"{limiter.total_tokens:g} builds are under way, as many as allowed; try again later",
                retry_after=RETRY_AFTER,
            ) from None

    def __enter__(self) -> Slot:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._begun:
            self._begun = True
            self._limiter.release_on_behalf_of(self)

    async def held(self, work: Awaitable[T]) -> T:
        """Does the work; afterwards the slot is free."""
        held, self._begun = not self._begun, True
        try:
            return await work
        finally:
            if held:
                self._limiter.release_on_behalf_of(self)
