"""`Exporter.open(plan)`: the only way to obtain an export's bytes.

The producer of a stream belongs to the service, not to the request: its thread runs in the exporter's own task group
and is never cancelled in mid-work. The consumer owns only the reading end of a pipe. When the consumer leaves, for
whatever reason and however often it is cancelled, the producer's next `send` fails and it walks out of its own `with`
blocks, which releases leases and descriptors. No clean-up anywhere depends on a request handler's task.
"""

from __future__ import annotations

import contextvars
import errno
import itertools
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field

import anyio
import anyio.abc

from streamer.errors import Busy, ConsumerGone, Draining, SourceFailed, StorageFull, StreamerError, Unsupported
from streamer.export.closing import closing
from streamer.export.compress import compressed
from streamer.export.pause import Pauses
from streamer.export.pipe import Pipe
from streamer.export.plan import Choice, ExportPlan, Outline, Report, Session, Span
from streamer.export.tasks import task_group
from streamer.export.verify import verified
from streamer.log import logger
from streamer.mounts.table import MountTable
from streamer.tar.compression import Compression
from streamer.tar.region import Chunk
from streamer.tracing import span

log = logger("streamer.export")

RETRY_AFTER = 5
"""Seconds after which a caller refused for want of a slot may sensibly try again."""


@dataclass(slots=True)
class ExportStream:
    """The reading end of one export: iterate it once; chunks are immutable bytes of at most about 1 MiB.

    A normal end means that every byte was made, the source's end check passed, and every lease is released. Everything
    else raises: SourceChanged, SourceFailed, Draining, …
    """

    plan: ExportPlan
    report: Report
    _pipe: Pipe
    outline: Outline | None = None
    """What was known beforehand, if that was asked for."""
    span: Span | None = None
    """The bytes that come, if an outline was asked for; None if none do."""
    received: int = 0
    """Bytes iterated so far."""

    def __aiter__(self) -> ExportStream:
        return self

    async def __anext__(self) -> bytes:
        chunk = await self._pipe.receive()
        if chunk is None:
            raise StopAsyncIteration
        self.received += len(chunk)
        return chunk

    def hand_over(self, take: Callable[[Chunk], None]) -> None:
        """From now on the export's own thread gives each chunk to `take`, which is back when there is room for another:
        what can be sent by a system call need not come to the loop for it, and need not be read.

        Iterating then only waits for the end. What `take` raises breaks the export off: iterating raises it as well.
        """
        self._pipe.hand_over(take)


@dataclass(eq=False, slots=True)
class _Export:
    """One open export, in the exporter's books from before its thread starts until after the thread is gone."""

    number: int
    plan: ExportPlan
    pipe: Pipe
    done: anyio.Event
    choice: Choice | None = None
    outline: Outline | None = None
    span: Span | None = None
    report: Report = field(default_factory=Report)
    started: float = field(default_factory=time.monotonic)


@dataclass(frozen=True, slots=True)
class Statistics:
    open: int
    limit: int
    abandoned: int
    """Producers that did not leave within the release limit (a hung read): their threads die with the process."""


class Exporter:
    """Opens exports. Made by `exporter()`, which owns its life; `limit` exports may be open at a time."""

    def __init__(
        self,
        mounts: MountTable,
        tasks: anyio.abc.TaskGroup,
        *,
        limit: int = 64,
        release_limit: float = 10,
        pauses: Pauses | None = None,
    ) -> None:
        self.mounts = mounts
        self.pauses = pauses or Pauses()
        self._tasks = tasks
        self._limit = limit
        self._release_limit = release_limit
        self._open: set[_Export] = set()
        self._numbers = itertools.count(1)
        self._refusal: StreamerError | None = None
        self._aborted = False
        self._abandoned = 0
        self._changed = anyio.Event()

    def __repr__(self) -> str:
        return f"<Exporter {len(self._open)} of {self._limit} open, {self._abandoned} abandoned, {self.mounts!r}>"

    @property
    def read(self) -> int:
        """Exports that somebody still reads; others that are open are on their way out."""
        return sum(not export.pipe.closed for export in self._open)

    def statistics(self) -> Statistics:
        return Statistics(len(self._open), self._limit, self._abandoned)

    @asynccontextmanager
    async def open(
        self, plan: ExportPlan, choice: Choice | None = None, *, further: bool = False
    ) -> AsyncIterator[ExportStream]:
        """The stream of a plan, entered once its first chunk is there (so: mounted, and readable so far).

        With a `choice` the archive is outlined first, and only the bytes chosen then come; for plans that can be
        outlined and whose body is not compressed. Without one the whole archive comes at once. Everything that goes
        wrong before the first chunk raises here. Leaving the block at any point, by any exception, ends the producer;
        it does not wait for it. Busy if too many exports are open, Draining once the service shuts down: for `further`
        parts of what was begun before only when that is broken off too.
        """
        export = self._start(plan, choice, further)
        try:
            await export.pipe.readable()
            yield ExportStream(plan, export.report, export.pipe, export.outline, export.span)
        finally:
            export.pipe.close()

    def refuse(self, error: StreamerError) -> None:
        """Open nothing from now on; exports that are open go on."""
        self._refusal = error

    async def idle(self) -> None:
        """Wait until no export is open."""
        while self._open:
            await self._changed.wait()

    def abort(self, error: StreamerError) -> None:
        """Break every open export: their readers raise `error`, their producers leave."""
        self.refuse(error)
        self._aborted = True
        for export in list(self._open):
            export.pipe.abort(error)

    def _start(self, plan: ExportPlan, choice: Choice | None, further: bool) -> _Export:
        if self._refusal is not None and (self._aborted or not further):
            raise self._refusal
        if len(self._open) >= self._limit:
            raise Busy(
                f"cannot export {plan.title}: {self._limit} exports are open, as many as allowed; try again later",
                retry_after=RETRY_AFTER,
            )
        export = _Export(next(self._numbers), plan, Pipe(), anyio.Event(), choice)
        self._open.add(export)
        self._tasks.start_soon(self._own, export, name=f"export {export.number}")
        return export

    async def _own(self, export: _Export) -> None:
        """The task that answers for one producer's thread, from its start until it is gone."""
        try:
            # A thread of its own, not one of a pool: a read that hangs for ever (dead NFS, stopped FUSE) then takes
            # nobody else's place, and a daemon thread cannot keep the process from exiting.
            # In the context of whoever opened it, so that what it logs tells of which request.
            context = contextvars.copy_context()
            thread = threading.Thread(
                target=context.run, args=(self._produce, export), name=f"export-{export.number}", daemon=True
            )
            try:
                thread.start()
            except RuntimeError as error:
                export.pipe.finish(Busy(f"cannot export {export.plan.title}: {error}", retry_after=RETRY_AFTER))
                return
            try:
                await export.done.wait()
            except anyio.get_cancelled_exc_class():
                export.pipe.abort(Draining("the service is shutting down"))
                with anyio.move_on_after(self._release_limit, shield=True):
                    await export.done.wait()
                if not export.done.is_set():
                    self._abandoned += 1
                    log.error("export abandoned", export=export.number, title=export.plan.title)
                raise
            thread.join()  # it has nothing left to do but end; afterwards not even its stack is there
        finally:
            self._open.discard(export)
            changed, self._changed = self._changed, anyio.Event()
            changed.set()

    def _produce(self, export: _Export) -> None:
        """The whole life of one export, in its own thread: nothing interrupts it, its `with` blocks release all."""
        plan, pipe = export.plan, export.pipe
        error: BaseException | None = None
        try:
            regions = plan.body is Compression.NONE and plan.digest is None
            session = Session(self.mounts, export.report, pipe.check, self.pauses, regions)
            if export.choice is None:
                _whole(plan, session, pipe)
            else:
                _chosen(export, export.choice, session)
        except BaseException as caught:  # noqa: ASYNC103  # a thread's own function: it cannot be cancelled
            error = caught if isinstance(caught, StreamerError) else explained(plan, caught)
        try:
            # Only now, with every lease released, does the reader learn how it ended: a clean end leaves nothing.
            pipe.finish(error)
            self._log(export, error)
        finally:
            try:
                pipe.loop.call_soon_threadsafe(export.done.set)
            except RuntimeError:
                pass  # the loop is gone, and with it everybody who could wait

    def _log(self, export: _Export, error: BaseException | None) -> None:
        fields = {
            "export": export.number,
            "title": export.plan.title,
            "bytes": export.pipe.sent,
            "seconds": round(time.monotonic() - export.started, 3),
            "sockets_skipped": export.report.sockets,
            "vanished": export.report.vanished,
        }
        if error is None:
            log.info("export complete", **fields)
        elif isinstance(error, ConsumerGone):
            log.info("export left by its reader", **fields)
        elif isinstance(error, StreamerError):
            log.warning("export failed", code=error.code, error=str(error), notes=_notes(error), **fields)
        else:
            log.error("export failed", exc_info=error, **fields)


def _whole(plan: ExportPlan, session: Session, pipe: Pipe) -> None:
    # Checked before compression as well: a compressor may take minutes of zeros before it gives anything.
    chunks = _while_read(verified(plan.chunks(session), plan.title, plan.size, plan.digest), pipe)
    with closing(chunks), closing(compressed(chunks, plan.body)) as body:
        for chunk in body:
            pipe.send(chunk)


def _chosen(export: _Export, choice: Choice, session: Session) -> None:
    plan = export.plan
    if plan.outline is None or plan.body is not Compression.NONE:
        raise Unsupported(f"the length of {plan.title} cannot be known before its archive is made")
    with ExitStack() as stack:
        with span("outline"):
            outline = stack.enter_context(plan.outline(session, choice.first))
        wanted = choice.span(outline)
        export.outline, export.span = outline, wanted
        if wanted is None:
            return
        start, stop = wanted
        digest = plan.digest if wanted == (0, outline.size) else None
        with closing(verified(outline.part(wanted), plan.title, stop - start, digest)) as chunks:
            for chunk in chunks:
                export.pipe.send(chunk)


def _while_read(chunks: Iterator[Chunk], pipe: Pipe) -> Iterator[Chunk]:
    """The same chunks; ConsumerGone between two of them once nobody reads. Closes `chunks`."""
    with closing(chunks) as source:
        for chunk in source:
            pipe.check()
            yield chunk


def explained(plan: ExportPlan, caught: BaseException) -> BaseException:
    """What the reader raises for something that was not one of our own errors."""
    if isinstance(caught, OSError):
        kind = StorageFull if caught.errno in (errno.ENOSPC, errno.EDQUOT) else SourceFailed
        raised: BaseException = kind(f"cannot export {plan.title}: {caught.strerror or caught}")
    elif isinstance(caught, MemoryError):
        raised = SourceFailed(f"cannot export {plan.title}: out of memory")
    else:
        raised = StreamerError(f"cannot export {plan.title}: an error inside streamer ({type(caught).__name__})")
    raised.__cause__ = caught
    return raised


def _notes(error: BaseException) -> list[str]:
    return list(getattr(error, "__notes__", []))


@asynccontextmanager
async def exporter(*, limit: int = 64, release_limit: float = 10, pause_limit: float = 60) -> AsyncIterator[Exporter]:
    """An Exporter with a mount table and a task group of its own, for use as a library.

    Leaving the block breaks exports that are still open and waits for their producers to release what they hold, at
    most `release_limit` seconds: one that hangs in a read is left behind (see `Statistics.abandoned`). No container
    stays paused for its exports longer than `pause_limit` seconds.
    """
    mounts = MountTable()
    pauses = Pauses(pause_limit)
    try:
        async with task_group() as tasks:
            made = Exporter(mounts, tasks, limit=limit, release_limit=release_limit, pauses=pauses)
            try:
                yield made
            finally:
                made.abort(Draining("the exporter was closed"))
    finally:
        pauses.close()  # only for exports that hang: all others have resumed what they paused
        mounts.close()
