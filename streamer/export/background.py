"""Work that a request starts but must not be able to tear: it runs in the service's own task group.

A native cancellation (aiohttp's, on disconnect) makes `await to_thread.run_sync(…)` return at once while the thread is
still writing. Work started here is not affected; whoever waits for it may leave at any time.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

import anyio
import anyio.abc

from streamer.errors import Draining, StreamerError
from streamer.export.tasks import task_group

T = TypeVar("T")


class _Outcome(Generic[T]):
    def __init__(self) -> None:
        self.done = anyio.Event()
        self.value: T | None = None
        self.error: Exception | None = None


class Background:
    """Runs coroutines in a task group that outlives every request."""

    def __init__(self, tasks: anyio.abc.TaskGroup) -> None:
        self._tasks = tasks
        self.running = 0
        self._changed = anyio.Event()
        self._refusal: StreamerError | None = None

    def refuse(self, error: StreamerError) -> None:
        """Start nothing from now on; what runs goes on."""
        self._refusal = error

    async def idle(self) -> None:
        """Wait until nothing runs."""
        while self.running:
            await self._changed.wait()

    def __repr__(self) -> str:
        return f"<Background {self.running} running>"

    async def run(self, work: Callable[[], Awaitable[T]]) -> T:
        """The result of `work()`, or its exception. Cancelling the caller leaves the work running to its own end."""
        if self._refusal is not None:
            raise self._refusal
        outcome: _Outcome[T] = _Outcome()
        self._tasks.start_soon(self._own, work, outcome)
        await outcome.done.wait()
        if outcome.error is not None:
            raise outcome.error
        return outcome.value  # type: ignore[return-value]  # set whenever there is no error

    async def _own(self, work: Callable[[], Awaitable[T]], outcome: _Outcome[T]) -> None:
        self.running += 1
        try:
            outcome.value = await work()
        except Exception as error:
            outcome.error = error
        except BaseException:
            outcome.error = Draining("the service is shutting down")
            raise
        finally:
            self.running -= 1
            changed, self._changed = self._changed, anyio.Event()
            changed.set()
            outcome.done.set()


@asynccontextmanager
async def background() -> AsyncIterator[Background]:
    """A Background with a task group of its own. Leaving the block cancels what runs: it undoes what it has half done,
    and whoever still waits for it gets Draining."""
    async with task_group() as tasks:
        made = Background(tasks)
        try:
            yield made
        finally:
            made.refuse(Draining("the service is shutting down"))
