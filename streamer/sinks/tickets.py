"""Turns and room for the parts of one export: who may go on, in which order, with how many bytes in hand."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio


class Turns:
    """Lets in one number after the other, from 1."""

    def __init__(self) -> None:
        self._next = 1
        self._changed = anyio.Event()

    @asynccontextmanager
    async def turn(self, number: int) -> AsyncIterator[None]:
        """The block runs once those of all numbers before have ended; the next one after it, unless it raises."""
        while self._next != number:
            await self._changed.wait()
        yield
        self._next += 1
        changed, self._changed = self._changed, anyio.Event()
        changed.set()


class Room:
    """Room for so many bytes; a single part always has room."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._taken = 0
        self._changed = anyio.Event()

    async def take(self, size: int) -> None:
        while self._taken and self._taken + size > self._size:
            await self._changed.wait()
        self._taken += size

    def give(self, size: int) -> None:
        self._taken -= size
        changed, self._changed = self._changed, anyio.Event()
        changed.set()
