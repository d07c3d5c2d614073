"""The queue of export jobs: submit, look, cancel, follow; runs as many at a time as are allowed.

Every job is in the database before it is answered for, and a job that this process cannot finish (a drain, SIGKILL) is
queued again by the next one. It ends exactly once: as done, failed or cancelled.
"""

from __future__ import annotations

import itertools
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeAlias

import anyio
import anyio.abc

from streamer.errors import Conflict, Draining, InvalidRequest, NotFound, StreamerError
from streamer.export.tasks import task_group
from streamer.jobs.attempt import Attempt, Tools
from streamer.jobs.fairness import chosen
from streamer.jobs.job import Job, Order, Problem, State
from streamer.jobs.planning import planned
from streamer.log import logger
from streamer.sinks.address import Scheme
from streamer.sinks.base import Target
from streamer.sinks.delivery import Delivered

log = logger("streamer.jobs")

_PAUSE = 5.0
"""Seconds until a database that failed is asked again."""
_LIMIT = 30.0
"""Seconds for taking back what an ended job left behind, while the queue runs."""
RELEASE_LIMIT = 10.0
_TIDY = 60.0
"""Seconds until that is tried again."""

_End: TypeAlias = Callable[[], Awaitable[object]]
"""Writes how a job ended, or that it waits again; once more does no harm."""


@dataclass(eq=False, slots=True)
class _Run:
    """One job that runs, from before the database knows until after its end is written."""

    place: str
    destination: str
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    attempt: Attempt | None = None
    cancelled: bool = False
    over: anyio.Event = field(default_factory=anyio.Event)


class Queue:
    """Made by `queue`, which owns its tasks."""

    def __init__(
        self, tools: Tools, tasks: anyio.abc.TaskGroup, limit: int, retention: float, release_limit: float
    ) -> None:
        self._tools = tools
        self._tasks = tasks
        self._limit = limit
        self._retention = retention
        self._release_limit = release_limit
        self._suspended: float | None = None
        """When, by the loop's clock."""
        self._running: dict[str, _Run] = {}
        self._served: dict[str, int] = {}
        self._swept: str | None = None
        """The destination to which an upload is being looked for that nobody knows: no new one is begun meanwhile."""
        self._turns = itertools.count(1)
        self._wake = anyio.Event()
        self._left = anyio.Event()
        self.news = anyio.Event()
        """Set, and replaced, when anything about any job changed: who looks at a job takes it before."""
        self.on_ended: Callable[[State, int], object] = lambda _state, _bytes: None
        """Told how each job of this process ended, and the bytes of an object that is there."""
        self._refusal: StreamerError | None = None

    def __repr__(self) -> str:
        return f"<Queue {len(self._running)} of {self._limit} running>"

    @property
    def running(self) -> int:
        return len(self._running)

    async def waiting(self) -> int:
        """How many wait for their turn."""
        return len(await self._tools.ledger.waiting())

    @property
    def refusing(self) -> bool:
        """Whether nothing is begun any more."""
        return self._refusal is not None

    async def submit(self, order: Order, key: str | None = None) -> tuple[Job, bool]:
        """The job, and whether it is a new one: the same idempotency key gives the same job.

        What can be known to be wrong now is said now: NotFound and whatever else the look-up raises; Conflict for a key
        that was used for something else; Draining once the service shuts down.
        """
        if self._refusal is not None:
            raise self._refusal
        if key is not None and (known := await self._tools.ledger.keyed(key)) is not None:
            return self._same(known, order), False
        await planned(self._tools.catalog, order.wanted)
        storage = await self._tools.places.of(order.destination)
        if order.destination.scheme is Scheme.FILE:
            await storage.refuse_existing(Target(order.destination, "", "", replace=order.overwrite))
        job = await self._tools.ledger.add(secrets.token_hex(16), order, key)
        if job is None:
            assert key is not None
            known = await self._tools.ledger.keyed(key)
            assert known is not None
            return self._same(known, order), False
        self._wake.set()
        return job, True

    async def job(self, id: str) -> Job:
        """NotFound if there is none."""
        job = await self._tools.ledger.job(id)
        if job is None:
            raise unknown(id)
        return self._live(job)

    async def listed(
        self, states: Sequence[State], prefix: str, limit: int, shown: Callable[[Job], bool] = lambda _: True
    ) -> list[Job]:
        """The newest first, of those that are `shown`."""
        found = await self._tools.ledger.listed(states or list(State), prefix, limit, shown)
        return [self._live(job) for job in found]

    async def cancel(self, id: str) -> Job:
        """The job, ended: cancelled, unless it had ended before or its object was about to appear."""
        run = self._running.get(id)
        if run is not None:
            if run.attempt is None or not run.attempt.committing:
                run.cancelled = True
                run.scope.cancel()
            await run.over.wait()
        elif await self._tools.ledger.cancel(id):
            self._changed()
            self._left.set()  # an attempt that was suspended may have left an upload
        return await self.job(id)

    def refuse(self, error: StreamerError) -> None:
        """Begin nothing from now on; jobs that run go on."""
        self._refusal = error
        self._changed()

    async def idle(self) -> None:
        """Wait until no job runs."""
        while self._running:
            await next(iter(self._running.values())).over.wait()

    def suspend(self) -> None:
        """Break off the jobs that run; what they sent stays, and the next process goes on with it."""
        if self._suspended is None:
            self._suspended = anyio.current_time()
        for run in self._running.values():
            if run.attempt is not None:
                run.attempt.suspended = True
            run.scope.cancel()

    async def released(self) -> None:
        """Wait until jobs that were suspended have ended, but no longer than they may take for it since then."""
        assert self._suspended is not None
        left = self._suspended + self._release_limit - anyio.current_time()
        with anyio.move_on_after(max(0, left)):
            await self.idle()

    def _same(self, job: Job, order: Order) -> Job:
        if job.order != order:
            raise Conflict("this Idempotency-Key was used for another export")
        return self._live(job)

    def _live(self, job: Job) -> Job:
        """The job with what only this process knows."""
        run = self._running.get(job.id)
        if run is None or run.attempt is None or job.state is not State.RUNNING:
            return job
        attempt = run.attempt
        return replace(job, done=attempt.done, total=attempt.total, rate=attempt.rate)

    def _changed(self) -> None:
        news, self.news = self.news, anyio.Event()
        news.set()

    async def schedule(self) -> None:
        """Starts jobs as there is room for them, for ever."""
        begun = False
        while True:
            self._wake = anyio.Event()
            try:
                if not begun:
                    for job in await self._tools.ledger.unfinished():
                        await self._tools.ledger.requeue(job.id)
                    begun = True
                await self._tools.ledger.forget(time.time() - self._retention)
                while self._refusal is None and len(self._running) < self._limit:
                    if not await self._start():
                        break
            except StreamerError as error:
                # A full disk, a locked database: it may pass, and downloads are none the worse for it.
                log.error("jobs cannot be read", error=str(error))
                with anyio.move_on_after(_PAUSE):
                    await self._wake.wait()
            else:
                await self._wake.wait()

    async def _start(self) -> bool:
        """Starts the next job, if there is one: never two at a time to the same destination."""
        queued = await self._tools.ledger.waiting()
        # After it: from here on nothing is awaited until the job is among those that run.
        taken = {self._swept} | {run.destination for run in self._running.values()}
        waiting = {id: (place, to) for id, place, to in queued if to not in taken}
        places = [(id, place) for id, (place, _) in waiting.items()]
        id = chosen(places, [run.place for run in self._running.values()], self._served)
        if id is None:
            return False
        place, destination = waiting[id]
        self._served[place] = next(self._turns)
        run = self._running[id] = _Run(place, destination)
        self._tasks.start_soon(self._own, id, run, name=f"job {id}")
        return True

    async def _own(self, id: str, run: _Run) -> None:
        """The task that answers for one job, until its end, or that it has to wait again, is written."""
        requeue: _End = partial(self._tools.ledger.requeue, id)
        end: _End | None = requeue
        try:
            try:
                with run.scope:
                    end = await self._attempt(id, run)
                if run.scope.cancelled_caught:
                    end = partial(self._end, id, State.CANCELLED) if run.cancelled else requeue
            except Exception as error:
                log.error("job cannot be begun", job=id, exc_info=error)
                await anyio.sleep(_PAUSE)
            if end is requeue and run.cancelled:
                end = partial(self._end, id, State.CANCELLED)
            if end is not None:
                await self._written(id, end)
        finally:
            del self._running[id]
            run.over.set()
            self._wake.set()
            self._left.set()
            self._changed()

    async def _written(self, id: str, end: _End) -> None:
        """Writes it, however long that takes: a job whose end is not known could be neither cancelled nor begun anew.
        What a shutdown breaks off here, the next process finds as it was."""
        while True:
            try:
                with anyio.CancelScope(shield=True):
                    await end()
                return
            except Exception as error:
                log.error("how a job ended cannot be written", job=id, exc_info=error)
            await anyio.sleep(_PAUSE)

    async def _attempt(self, id: str, run: _Run) -> _End | None:
        """How the job ended; None if there is nothing to end."""
        ledger = self._tools.ledger
        if not await ledger.start(id):
            return None
        job = await ledger.job(id)
        assert job is not None
        run.attempt = Attempt(self._tools, job, await ledger.traces(id), self._changed)
        log.info("job started", job=id, destination=str(job.order.destination), attempt=job.attempts)
        try:
            made = await run.attempt.run()
        except Draining:
            return partial(ledger.requeue, id)
        except StreamerError as error:
            problem = Problem(error.code, str(error))
        except Exception as error:
            log.error("job failed", job=id, exc_info=error)
            problem = Problem(StreamerError.code, "an error inside streamer; its log says more")
        else:
            return partial(self._end, id, State.DONE, made=made)
        return partial(self._end, id, State.FAILED, error=problem)

    async def _end(self, id: str, state: State, *, error: Problem | None = None, made: Delivered | None = None) -> None:
        if made is None:
            await self._tools.ledger.end(id, state, error=error)
            code, detail = (error.code, error.detail) if error else (None, None)
            log.info(f"job {state.value}", job=id, code=code, error=detail)
        else:
            await self._tools.ledger.end(id, state, done=made.size, digest=made.digest, etag=made.etag)
            log.info("job done", job=id, bytes=made.size, digest=made.digest)
        self.on_ended(state, made.size if made else 0)

    async def tidy(self) -> None:
        """Takes back uploads of jobs that ended without being able to do it themselves, for ever."""
        while True:
            self._left = anyio.Event()
            try:
                for job, upload, asked in await self._tools.ledger.leftovers():
                    await self._take_back(job, upload, asked)
            except StreamerError as error:
                log.error("jobs cannot be read", error=str(error))
            with anyio.move_on_after(_TIDY):
                await self._left.wait()

    async def _take_back(self, job: Job, upload: str | None, asked: float | None) -> None:
        destination = job.order.destination.uri
        if any(run.destination == destination for run in self._running.values()):
            return  # whose upload may not have told its ID yet; what is left is taken back after it
        self._swept = destination
        try:
            with anyio.move_on_after(_LIMIT):
                storage = await self._tools.places.of(job.order.destination)
                keep = await self._tools.ledger.uploads(destination)
                await storage.sweep(Target(job.order.destination, job.id, ""), upload=upload, since=asked, keep=keep)
                await self._tools.ledger.over(job.id)
        except Exception as error:
            log.warning("upload left behind", job=job.id, upload=upload, error=str(error))
        finally:
            self._swept = None
            self._wake.set()


def unknown(id: str) -> NotFound:
    """That there is no such job."""
    return NotFound(f"there is no export {id[:100]!r}")


@asynccontextmanager
async def queue(
    tools: Tools, *, limit: int, retention: float, release_limit: float = RELEASE_LIMIT
) -> AsyncIterator[Queue]:
    """A running queue, which forgets jobs `retention` seconds after they ended. Leaving the block suspends those that
    run, and gives up what they did not release `release_limit` seconds after they were suspended."""
    if limit < 1:
        raise InvalidRequest("at least one job must be allowed to run", parameter="max_jobs")
    async with task_group() as tasks:
        made = Queue(tools, tasks, limit, retention, release_limit)
        tasks.start_soon(made.schedule)
        tasks.start_soon(made.tidy)
        try:
            yield made
        finally:
            made.refuse(Draining("the service is shutting down"))
            made.suspend()
            with anyio.CancelScope(shield=True):
                await made.released()
