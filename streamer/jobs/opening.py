"""The queue of a state directory, which only one process at a time can have."""

from __future__ import annotations

import fcntl
import os
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

from streamer.errors import Conflict, NotPermitted
from streamer.export.exporter import Exporter
from streamer.jobs.attempt import Tools
from streamer.jobs.ledger import Ledger
from streamer.jobs.queue import RELEASE_LIMIT, Queue, queue
from streamer.sinks.delivery import Manner
from streamer.sinks.storages import Access, storages
from streamer.stores.catalog import Catalog

_TAKING_BACK = 0.8
"""Of the time in which a job must have released everything, how much taking back its upload may take: how the job ended
is to be written after it."""


@asynccontextmanager
async def jobs(
    state: Path,
    catalog: Catalog,
    exporter: Exporter,
    *,
    access: Access,
    manner: Manner,
    limit: int,
    retention: float,
    release_limit: float = RELEASE_LIMIT,
) -> AsyncIterator[Queue]:
    """The running queue of the jobs in `state`/jobs.db, of which `limit` run at a time, and which are forgotten
    `retention` seconds after they ended.

    Conflict if another process has it, NotPermitted if the directory cannot be written. Leaving the block suspends what
    runs; the next process to open it goes on. Within `release_limit` seconds of being suspended or cancelled, a job has
    taken back what it sent and is not to stay, or leaves that to whoever opens the queue next.
    """
    with ExitStack() as stack:
        try:
            os.makedirs(state, 0o700, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            lock = os.open(state / "jobs.lock", flags, 0o600)
        except OSError as error:
            raise NotPermitted(f"export jobs cannot be kept in {state}: {error.strerror}") from error
        stack.callback(os.close, lock)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Conflict(f"another process runs the export jobs of {state}") from None
        patience = replace(access.patience, abort=min(access.patience.abort, release_limit * _TAKING_BACK))
        async with Ledger.open(state / "jobs.db") as ledger, storages(replace(access, patience=patience)) as places:
            tools = Tools(ledger, catalog, exporter, places, manner)
            async with queue(tools, limit=limit, retention=retention, release_limit=release_limit) as opened:
                yield opened
