"""Task groups whose failure comes out as it is: a plain one would wrap even a lone one into a group."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import anyio
import anyio.abc
from anyio import CapacityLimiter, to_thread

T = TypeVar("T")


async def threaded(function: Callable[[], T]) -> T:
    """The function's result, from a thread of its own: neither waiting for a slow sender nor cleaning up may wait for a
    place among threads that others hold. Cancelled, it is waited for."""
    return await to_thread.run_sync(function, limiter=CapacityLimiter(1))


@asynccontextmanager
async def task_group() -> AsyncIterator[anyio.abc.TaskGroup]:
    """A task group that is cancelled when the block is left, and waits for its tasks as every task group does.

    What the block raises comes out as it is: a plain task group would wrap it into a group of one.
    """
    failure: Exception | None = None
    async with anyio.create_task_group() as tasks:
        try:
            yield tasks
        except Exception as caught:
            failure = caught
        finally:
            tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure


@asynccontextmanager
async def tasks() -> AsyncIterator[anyio.abc.TaskGroup]:
    """A task group: left when all its tasks have ended, or with the first failure once all have been cancelled."""
    try:
        async with anyio.create_task_group() as group:
            yield group
    except BaseExceptionGroup as failures:
        raise _first(failures) from None


def _first(failure: BaseException) -> BaseException:
    while isinstance(failure, BaseExceptionGroup):
        failure = failure.exceptions[0]
    return failure
