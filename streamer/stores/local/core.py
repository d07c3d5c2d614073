"""What every operation of the store needs: its directory, its database, its lock, its threads."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import TypeVar

import anyio
from anyio import CapacityLimiter, to_thread

from streamer.errors import NotPermitted
from streamer.stores.local import staging as stagings
from streamer.stores.local.database import Database
from streamer.stores.local.source import Cancelled
from streamer.stores.local.staging import Staging
from streamer.stores.local.state import State
from streamer.stores.local.unpack import Ownership

T = TypeVar("T")

IMPORTS = 4
"""Imports and commits that run at once; further ones wait."""


@dataclass(slots=True)
class Core:
    """An open store. `ownership` is fixed when the store is made: real owners and those of a user never mix in it."""

    name: str
    state: State
    database: Database
    ownership: Ownership
    imports: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(IMPORTS))
    _publishing: anyio.Lock = field(default_factory=anyio.Lock)

    @contextlib.asynccontextmanager
    async def exclusive(self) -> AsyncIterator[None]:
        """The store's lock, among tasks and among processes, for moments in which directories and rows change.

        Shielded from cancellation: what begins in here is finished.
        """
        async with self._publishing:
            with anyio.CancelScope(shield=True):
                fd = await to_thread.run_sync(self.state.lock)
                try:
                    yield
                finally:
                    os.close(fd)

    @contextlib.asynccontextmanager
    async def staging(self) -> AsyncIterator[Staging]:
        """A staging directory, deleted on every way out."""
        self.check_writable()
        stack = contextlib.ExitStack()
        try:
            yield await to_thread.run_sync(stack.enter_context, stagings.staging(self.state))
        finally:
            with anyio.CancelScope(shield=True):
                await to_thread.run_sync(stack.close)

    def check_writable(self) -> None:
        """NotPermitted for anybody but the store's owner: files of two owners would lock each other out."""
        owner = self.ownership.owner
        if owner is not None and owner[0] != os.geteuid():
            raise NotPermitted(f"the store belongs to user {owner[0]}: run streamer as that user to change it")

    async def long(self, function: Callable[[threading.Event], T]) -> T:
        """Runs a function that may take minutes in a thread of the imports' own. A cancellation sets the event that the
        function was given, waits for its end, and then goes on: nothing is left running behind it."""
        stop = threading.Event()
        outcome: list[T] = []
        failure: list[Exception] = []

        async def watch() -> None:
            try:
                await anyio.sleep_forever()
            finally:
                stop.set()

        # The task group exists for `watch` alone; failures are carried around it, for it would wrap them in a group.
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch)
            try:
                outcome.append(await to_thread.run_sync(function, stop, limiter=self.imports))
            except Cancelled:
                pass
            except Exception as error:
                failure.append(error)
            tasks.cancel_scope.cancel()
        await anyio.lowlevel.checkpoint()
        if failure:
            raise failure[0]
        return outcome[0]
