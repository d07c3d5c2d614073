"""Iterators that are closed by whoever consumes them, generators or not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


@contextmanager
def closing(iterator: Iterator[T]) -> Iterator[Iterator[T]]:
    """The iterator, closed when the block is left.

    A generator that is merely dropped runs its `finally` when the garbage collector finds it, in whatever thread: its
    leases would outlive the stream. `contextlib.closing` insists on a `close` that plain iterators do not have.
    """
    try:
        yield iterator
    finally:
        close = getattr(iterator, "close", None)
        if close is not None:
            close()
