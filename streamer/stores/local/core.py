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
from anyio.abc import TaskStatus

from streamer.database import Database
from streamer.errors import Busy, NotPermitted
from streamer.stores.local import staging as stagings
from streamer.stores.local.staging import Staging
from streamer.stores.local.state import State
from streamer.stores.local.unpack import Ownership

T = TypeVar("T")

IMPORTS = 4
"""Imports and commits that run at once; further ones wait."""
WAITING = 8
"""That may wait so; each has a client who waits, a connection, and soon a staging directory."""
RETRY_AFTER = 5
"""Seconds after which one that was refused may try again."""

_LONGEST = 60
"""Seconds that another process may hold the store's lock, which is for moments: one that was stopped holds it on."""

_POLL = 0.01
"""Seconds between two looks at a lock that another process holds."""


@dataclass(slots=True)
class Core:
    """An open store. `ownership` is fixed when the store is made: real owners and those of a user never mix in it.

    Each kind of work has threads of its own, so that none waits for a thread which another kind holds: `imports`;
    `changes` inside of `exclusive`; `lookups`, which read; `rest`, which makes and deletes what nobody sees. No thread
    ever waits for the store's lock.
    """

    name: str
    state: State
    database: Database
    ownership: Ownership
    imports: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(IMPORTS))
    changes: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(1))
    lookups: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(8))
    rest: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(4))
    _admitted: int = 0
    _publishing: anyio.Lock = field(default_factory=anyio.Lock)

    @contextlib.asynccontextmanager
    async def exclusive(self) -> AsyncIterator[None]:
        """The store's lock, among tasks and among processes, for moments in which directories and rows change.

        The wait ends with a cancellation; the block is shielded from it: what begins in there is finished.
        """
        async with self._publishing:
            fd = await self._locked()
            try:
                with anyio.CancelScope(shield=True):
                    yield
            finally:
                os.close(fd)

    async def _locked(self) -> int:
        # Asked again and again, not waited for in a thread: such a thread could not be called back.
        end = anyio.current_time() + _LONGEST
        while (fd := self.state.lock()) is None:
            if anyio.current_time() > end:
                said = f"another process has held the lock of the store for {_LONGEST} seconds"
                raise Busy(said, retry_after=RETRY_AFTER)
            await anyio.sleep(_POLL)
        return fd

    @contextlib.asynccontextmanager
    async def importing(self) -> AsyncIterator[Staging]:
        """`staging` for an import or a commit; Busy, before it is made, when enough others are waiting already."""
        self.check_writable()
        if self._admitted >= IMPORTS + WAITING:
            raise Busy(
                f"{IMPORTS} imports are under way and {WAITING} are waiting, as many as allowed; try again later",
                retry_after=RETRY_AFTER,
            )
        self._admitted += 1
        try:
            async with self.staging() as staging:
                yield staging
        finally:
            self._admitted -= 1

    @contextlib.asynccontextmanager
    async def staging(self) -> AsyncIterator[Staging]:
        """A staging directory, deleted on every way out."""
        self.check_writable()
        stack = contextlib.ExitStack()
        try:
            # Under the lock: a sweep of another process must not meet the directory before its flock is taken.
            async with self.exclusive():
                made = stagings.staging(self.state)
                staging = await to_thread.run_sync(stack.enter_context, made, limiter=self.changes)
            yield staging
        finally:
            # In a thread of its own: cleaning up waits for no place among threads that others hold.
            with anyio.CancelScope(shield=True):
                await to_thread.run_sync(stack.close, limiter=CapacityLimiter(1))

    @contextlib.asynccontextmanager
    async def scratch(self) -> AsyncIterator[Staging]:
        """`staging` for whoever serves a request. It belongs to a task of its own: aiohttp may cancel a handler twice,
        and the second time that would pass the shield, and leave a removal that has only begun or not even that."""
        failure: Exception | None = None  # carried around the task group, which would wrap it in a group
        async with anyio.create_task_group() as tasks:
            try:
                yield await tasks.start(self._held)
            except Exception as caught:
                failure = caught
            tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def _held(self, *, task_status: TaskStatus[Staging]) -> None:
        """A staging directory until this is cancelled."""
        async with self.staging() as staging:
            task_status.started(staging)
            await anyio.sleep_forever()

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
        failure: list[Exception] = []  # `Cancelled` too, for which the checkpoint below raises what it stands for

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
            except Exception as error:
                failure.append(error)
            tasks.cancel_scope.cancel()
        await anyio.lowlevel.checkpoint()
        if failure:
            raise failure[0]
        return outcome[0]
