"""Jobs in the database: the only module with SQL about them. A final state is written once and never changed."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from streamer.database import Database, Row
from streamer.jobs import job as jobs
from streamer.jobs.job import Job, Order, Problem, State, Traces
from streamer.jobs.schema import MIGRATIONS
from streamer.sinks.base import Part

_COLUMNS = "id, wanted, state, created, ended, done, total, digest, object, code, detail, attempts"
_PAGE = 200
"""Jobs that are read at a time where not all of them may be shown."""
_LAST = (1 << 63) - 1


class Ledger:
    """Made by `Ledger.open`, which closes the database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @classmethod
    @asynccontextmanager
    async def open(cls, path: Path) -> AsyncIterator[Ledger]:
        """The jobs in a file, which is made where it is missing."""
        async with Database.open(path, MIGRATIONS) as database:
            yield cls(database)

    async def add(self, id: str, order: Order, key: str | None) -> Job | None:
        """A new queued job; None if there is one with the same idempotency key."""
        async with self._database.write() as transaction:
            if key is not None and await transaction.one("SELECT 1 FROM jobs WHERE key = ?", key) is not None:
                return None
            await transaction.run(
                "INSERT INTO jobs (id, key, wanted, destination, place, state, created) VALUES (?, ?, ?, ?, ?, ?, ?)",
                id,
                key,
                json.dumps(order.members()),
                order.destination.uri,
                order.place,
                State.QUEUED.value,
                time.time(),
            )
        return await self.job(id)

    async def job(self, id: str) -> Job | None:
        async with self._database.read() as transaction:
            row = await transaction.one(f"SELECT {_COLUMNS} FROM jobs WHERE id = ?", id)
        return None if row is None else _job(row)

    async def keyed(self, key: str) -> Job | None:
        """The job that was submitted with this idempotency key."""
        async with self._database.read() as transaction:
            row = await transaction.one(f"SELECT {_COLUMNS} FROM jobs WHERE key = ?", key)
        return None if row is None else _job(row)

    async def listed(
        self, states: Iterable[State], prefix: str, limit: int, shown: Callable[[Job], bool] = lambda _: True
    ) -> list[Job]:
        """Jobs in these states whose destination begins with the prefix, the newest first; only those `shown`."""
        wanted = [state.value for state in states]
        marks = ", ".join("?" * len(wanted))
        found: list[Job] = []
        page, before = max(limit, _PAGE), _LAST
        async with self._database.read() as transaction:
            while before and len(found) < limit:
                rows = await transaction.all(
                    f"SELECT {_COLUMNS}, number FROM jobs WHERE state IN ({marks}) AND substr(destination, 1, ?) = ?"
                    " AND number < ? ORDER BY number DESC LIMIT ?",
                    *wanted,
                    len(prefix),
                    prefix,
                    before,
                    page,
                )
                found += filter(shown, (_job(row[:-1]) for row in rows))
                before = rows[-1][-1] if len(rows) == page else 0
        return found[:limit]

    async def waiting(self) -> list[tuple[str, str, str]]:
        """IDs, places and destinations of queued jobs, the oldest first."""
        async with self._database.read() as transaction:
            rows = await transaction.all(
                "SELECT id, place, destination FROM jobs WHERE state = 'queued' ORDER BY number"
            )
        return [(id, place, destination) for id, place, destination in rows]

    async def uploads(self, destination: str) -> list[str]:
        """IDs of uploads to a destination that jobs which did not end yet began."""
        async with self._database.read() as transaction:
            rows = await transaction.all(
                "SELECT upload FROM jobs WHERE upload IS NOT NULL AND destination = ? AND ended IS NULL", destination
            )
        return [upload for (upload,) in rows]

    async def forget(self, before: float) -> int:
        """Removes jobs that ended before then and left nothing behind; how many."""
        async with self._database.write() as transaction:
            return await transaction.run(
                "DELETE FROM jobs WHERE ended < ? AND upload IS NULL AND asked IS NULL", before
            )

    async def unfinished(self) -> list[Job]:
        """Jobs that a process before this one was running, the oldest first."""
        async with self._database.read() as transaction:
            rows = await transaction.all(f"SELECT {_COLUMNS} FROM jobs WHERE state = 'running' ORDER BY number")
        return [_job(row) for row in rows]

    async def leftovers(self) -> list[tuple[Job, str | None, float | None]]:
        """Jobs that ended, but of whose upload something may be left: with its ID, and with when one was asked for
        whose ID never arrived (seconds since the epoch)."""
        async with self._database.read() as transaction:
            rows = await transaction.all(
                f"SELECT {_COLUMNS}, upload, asked FROM jobs"
                " WHERE (upload IS NOT NULL OR asked IS NOT NULL) AND ended IS NOT NULL"
            )
        return [(_job(row[:-2]), row[-2], row[-1]) for row in rows]

    async def traces(self, id: str) -> Traces:
        async with self._database.read() as transaction:
            row = await transaction.one("SELECT upload, etag, step, size, digest, asked FROM jobs WHERE id = ?", id)
            parts = await transaction.all("SELECT number, size, etag, checksum FROM parts WHERE job = ?", id)
        if row is None:
            return Traces()
        upload, etag, step, size, digest, asked = row
        sent = {number: tuple(rest) for number, *rest in parts}
        return Traces(upload, etag, step, size, digest, sent, asked=asked)

    async def start(self, id: str) -> bool:
        """Whether a queued job runs from now on; False if it was cancelled meanwhile."""
        return await self._change(
            id, "state = 'running', attempts = attempts + 1, done = 0", "state IN ('queued', 'running')"
        )

    async def requeue(self, id: str) -> bool:
        """A running job waits for another attempt."""
        return await self._change(id, "state = 'queued'", "state = 'running'")

    async def cancel(self, id: str) -> bool:
        """Whether a queued job is cancelled now; one that runs must be ended first."""
        return await self._change(id, "state = 'cancelled', ended = ?", "state = 'queued'", time.time())

    async def end(
        self,
        id: str,
        state: State,
        *,
        done: int | None = None,
        digest: str = "",
        etag: str = "",
        error: Problem | None = None,
    ) -> bool:
        """Whether the job ends so: only the first end counts."""
        return await self._change(
            id,
            "state = ?, ended = ?, done = coalesce(?, done), total = coalesce(?, total), digest = coalesce(?, digest),"
            " object = ?, code = ?, detail = ?",
            "state IN ('queued', 'running')",
            state.value,
            time.time(),
            done,
            done,
            digest or None,
            etag or None,
            error.code if error else None,
            error.detail if error else None,
        )

    async def outlined(self, id: str, etag: str | None, step: int | None, total: int | None) -> None:
        """What is sent from now on; parts of anything else are forgotten."""
        async with self._database.write() as transaction:
            await transaction.run("DELETE FROM parts WHERE job = ?", id)
            await transaction.run(
                "UPDATE jobs SET upload = NULL, etag = ?, step = ?, total = ?, size = NULL, digest = NULL WHERE id = ?",
                etag,
                step,
                total,
                id,
            )

    async def asking(self, id: str) -> None:
        """An upload is asked for now, unless one was before whose ID never arrived."""
        await self._change(id, "asked = coalesce(asked, ?)", "1", time.time())

    async def swept(self, id: str) -> None:
        """There is no upload any more whose ID never arrived."""
        await self._change(id, "asked = NULL", "1")

    async def begun(self, id: str, upload: str) -> None:
        """The upload that was asked for has this ID."""
        await self._change(id, "upload = ?, asked = NULL", "1", upload)

    async def stored(self, id: str, part: Part) -> None:
        async with self._database.write() as transaction:
            await transaction.run(
                "INSERT OR REPLACE INTO parts (job, number, size, etag, checksum) VALUES (?, ?, ?, ?, ?)",
                id,
                part.number,
                part.size,
                part.etag,
                part.checksum,
            )

    async def completing(self, id: str, size: int, digest: str) -> None:
        await self._change(id, "size = ?, digest = ?", "1", size, digest)

    async def over(self, id: str) -> None:
        """Nothing is left of the job's upload."""
        async with self._database.write() as transaction:
            await transaction.run("DELETE FROM parts WHERE job = ?", id)
            await transaction.run(
                "UPDATE jobs SET upload = NULL, asked = NULL, etag = NULL, step = NULL WHERE id = ?", id
            )

    async def progress(self, id: str, done: int, total: int | None) -> None:
        await self._change(id, "done = ?, total = ?", "state = 'running'", done, total)

    async def _change(self, id: str, what: str, condition: str, *values: Any) -> bool:
        async with self._database.write() as transaction:
            return await transaction.run(f"UPDATE jobs SET {what} WHERE id = ? AND {condition}", *values, id) == 1


def _job(row: Row) -> Job:
    id, wanted, state, created, ended, done, total, digest, object, code, detail, attempts = row
    return Job(
        id=id,
        order=jobs.order(json.loads(wanted)),
        state=State(state),
        created=created,
        ended=ended,
        done=done,
        total=total,
        digest=digest if state == State.DONE else None,
        etag=object,
        error=None if code is None else Problem(code, detail),
        attempts=attempts,
    )
