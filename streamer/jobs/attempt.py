"""One job, run once: from names to an object, with a record of how far it came for the next attempt."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

import anyio

from streamer.errors import Busy, StreamerError
from streamer.export.exporter import Exporter
from streamer.export.plan import ExportPlan, Report
from streamer.jobs.job import Job, Traces
from streamer.jobs.ledger import Ledger
from streamer.jobs.planning import engine, planned
from streamer.log import logger
from streamer.sinks.base import Begun, Part, Record, Storage, Target
from streamer.sinks.delivery import Delivered, Manner, Source, Watch, deliver
from streamer.sinks.metadata import target
from streamer.sinks.storages import Storages
from streamer.stores.catalog import Catalog

log = logger("streamer.jobs")

_BUSY_PAUSE = 1.0
_RATE_SECONDS = 10.0
"""How far back a rate looks."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What every attempt works with."""

    ledger: Ledger
    catalog: Catalog
    exporter: Exporter
    places: Storages
    manner: Manner


class Attempt(Record, Watch):
    """Runs one job. `suspended` is set from outside, by whoever wants its upload kept for another process."""

    def __init__(self, tools: Tools, job: Job, traces: Traces, changed: Callable[[], None]) -> None:
        self.suspended = False
        self.committing = False
        """Whether the object may appear at any moment: it is too late to cancel."""
        self.done = 0
        self.total: int | None = None
        self._tools = tools
        self._job = job
        self._traces = traces
        self._changed = changed
        self._samples: deque[tuple[float, int]] = deque()
        self._storage: Storage | None = None
        self._opened = False
        """Whether the exporter has let the export in: what is busy from then on is something else."""
        self._plan: ExportPlan | None = None

    async def run(self) -> Delivered:
        """The object, once it is there. Whatever planning, the export and the storage raise."""
        tools, job, traces = self._tools, self._job, self._traces
        self._storage = storage = await tools.places.of(job.order.destination)
        if traces.asked is not None:
            # The process died before the upload's ID came. Only then: others may be writing to the same address.
            known = await tools.ledger.uploads(job.order.destination.uri)
            await storage.sweep(self._bare(), since=traces.asked, keep=known)
            await tools.ledger.swept(job.id)
        if traces.digest is not None and traces.size is not None:
            etag = await storage.found(self._bare(), traces.size, traces.digest)
            if etag is not None:  # the process died between the object and the news of it
                await self._cleared(storage)
                return Delivered(traces.size, traces.digest, etag, Report())
        self._plan = plan = await planned(tools.catalog, job.order.wanted)
        while True:
            try:
                return await deliver(
                    tools.exporter,
                    plan,
                    storage,
                    self._target,
                    manner=replace(tools.manner, digest_first=job.order.digest_first),
                    record=self,
                    watch=self,
                )
            except Busy:
                if self._opened:
                    raise
                await anyio.sleep(_BUSY_PAUSE)

    @property
    def rate(self) -> float | None:
        """Bytes a second in the last ten seconds, None as long as nothing came."""
        if len(self._samples) < 2:
            return None
        (first, before), (last, now) = self._samples[0], self._samples[-1]
        return (now - before) / (last - first) if last > first else None

    def _target(self, size: int | None, digest: str | None) -> Target:
        assert self._plan is not None
        order = self._job.order
        return target(
            order.destination,
            self._plan,
            token=self._job.id,
            engine=engine(self._tools.catalog, self._plan),
            size=size,
            digest=digest,
            replace=order.overwrite,
        )

    async def _cleared(self, storage: Storage) -> None:
        """Nothing is left of the upload whose object is there. Errors are logged: the queue tries again."""
        if self._traces.upload is not None:
            try:
                await storage.sweep(self._bare(), upload=self._traces.upload)
            except StreamerError as error:
                log.warning("upload left behind", job=self._job.id, upload=self._traces.upload, error=str(error))
                return
        await self.ended()

    def _bare(self) -> Target:
        """The object as far as it is known without a plan."""
        return Target(self._job.order.destination, self._job.id, "")

    # the watch

    def progress(self, done: int, size: int | None) -> None:
        now = time.monotonic()
        self.done, self.total = done, size
        self._samples.append((now, done))
        while now - self._samples[0][0] > _RATE_SECONDS:
            self._samples.popleft()
        self._changed()

    async def outlined(self, source: Source | None) -> Begun | None:
        self._opened = True
        traces = self._traces
        if traces.upload is not None:
            if source is not None and (source.etag, source.step) == (traces.etag, traces.step):
                parts = {number: Part(number, *part) for number, part in traces.parts.items()}
                return Begun(traces.upload, parts)
            assert self._storage is not None
            await self._storage.sweep(self._bare(), upload=traces.upload)
            self._traces = Traces()
        await self._tools.ledger.outlined(
            self._job.id, source.etag if source else None, source.step if source else None, self.total
        )
        return None

    # the record

    async def asking(self) -> None:
        await self._tools.ledger.asking(self._job.id)

    async def begun(self, upload: str) -> None:
        await self._tools.ledger.begun(self._job.id, upload)

    async def stored(self, part: Part) -> None:
        await self._tools.ledger.stored(self._job.id, part)

    async def completing(self, size: int, digest: str) -> None:
        await self._tools.ledger.completing(self._job.id, size, digest)
        self.committing = True

    async def ended(self) -> None:
        try:
            await self._tools.ledger.over(self._job.id)
        except StreamerError as error:
            # The object is there, or nothing is: neither is undone by this. Who comes later finds no upload of that ID.
            log.error("that nothing is left of an upload cannot be written", job=self._job.id, error=str(error))
