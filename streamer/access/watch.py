"""What was made of files, and made again when one of them is another one."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeAlias, TypeVar

import anyio
import anyio.to_thread

from streamer.errors import StreamerError
from streamer.log import logger

log = logger("streamer.access")

T = TypeVar("T")
_Identity: TypeAlias = tuple[int, int, int, int] | None

PERIOD = 1.0
"""Seconds between two looks at a file."""


class Watched(Generic[T]):
    """`value` is what `make` made of the files at `paths`, which `what` names in the log.

    Constructing raises what `make` raises. Later a failure keeps the value that is there, and is logged once for each
    state of the files: whoever writes one carelessly must not lock everybody out.
    """

    def __init__(self, what: str, paths: Sequence[str], make: Callable[[], T]) -> None:
        self._what = what
        self._paths = tuple(paths)
        self._make = make
        self._seen = self._identities()
        self.value = make()

    def refresh(self, *, force: bool = False) -> bool:
        """Looks at the files, and with `force` reads them in any case; whether there is a new value. For a thread."""
        # Looked at before they are read: a change in between is found by the next look.
        now = self._identities()
        if now == self._seen and not force:
            return False
        self._seen = now
        try:
            self.value = self._make()
        except Exception as error:
            unexpected = None if isinstance(error, StreamerError) else error
            log.error(f"{self._what} not reloaded", error=str(error), paths=self._paths, exc_info=unexpected)
            return False
        log.info(f"{self._what} reloaded", paths=self._paths)
        return True

    def _identities(self) -> tuple[_Identity, ...]:
        return tuple(map(_identity, self._paths))


def _identity(path: str) -> _Identity:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_ctime_ns, status.st_size


async def follow(watched: Watched[T], changed: Callable[[], Awaitable[None]] | None = None) -> None:
    """Refreshes it every second, and says so to `changed` (again and again, if that fails), until cancelled."""
    told = True
    while True:
        await anyio.sleep(PERIOD)
        # A file on a dead disk must not keep the process from its end.
        if await anyio.to_thread.run_sync(watched.refresh, abandon_on_cancel=True):
            told = changed is None
        if not told and changed is not None:
            told = await taken_over(changed)


async def taken_over(changed: Callable[[], Awaitable[None]]) -> bool:
    """Whether what was reloaded is in use now. A failure is logged: what was there before stays in use."""
    try:
        await changed()
    except Exception as error:
        log.error("what was reloaded cannot be used yet", exc_info=error)
        return False
    return True
