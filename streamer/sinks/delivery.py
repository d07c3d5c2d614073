"""One export into one storage.

A stream is cut into parts, of which several are sent at a time. Where the archive can be outlined, and looking at its
files is quick beside reading them, the parts are also made several at a time, each by an export of its own: all must
have the same ETag. Whoever makes or sends a part holds its bytes until the digest of the whole has gone over them, in
their order; so memory is bounded by the length of a part times their number, and nothing is read twice.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TypeAlias

import anyio
import anyio.to_thread

from streamer.errors import Busy, SourceChanged
from streamer.export.exporter import Exporter, ExportStream
from streamer.export.plan import Choice, ExportPlan, Outline, Report, Span
from streamer.export.tasks import tasks
from streamer.sinks.base import Begun, Record, Storage, Target, Upload
from streamer.sinks.cutting import Cutter, Pages
from streamer.sinks.sizes import Steps, steps
from streamer.sinks.tickets import Room, Turns
from streamer.tar.compression import Compression

PART = 16 << 20
CONCURRENCY = 4

_QUICK = 0.05
"""Seconds. A look at every file that takes longer is not repeated for each part."""
_BUSY_PAUSE = 0.5


@dataclass(frozen=True, slots=True)
class Manner:
    """How an export is sent: `part` bytes at a time (more where the storage needs it), so many `concurrency` at once.
    At most part × concurrency bytes are held, besides what the exports themselves need."""

    part: int = PART
    concurrency: int = CONCURRENCY
    digest_first: bool = False
    """Whether an archive whose digest is not known is made once before it is sent, only to find it out: so that the
    object can say it of itself. A source that gives other bytes the second time is then SourceChanged."""


@dataclass(frozen=True, slots=True)
class Source:
    """What an upload was begun of: the ETag of its outline, and how it was cut. Both must be the same to go on."""

    etag: str
    step: int


@dataclass(frozen=True, slots=True)
class Delivered:
    """An object that is there. `etag` is the storage's own, empty where it has none."""

    size: int
    digest: str
    etag: str
    report: Report


Targeting: TypeAlias = Callable[[int | None, str | None], Target]


class Watch:
    """Told how far a delivery is. This one does not care."""

    def progress(self, done: int, size: int | None) -> None:
        """So many bytes are stored, of so many; None as long as nobody can know."""

    async def outlined(self, source: Source | None) -> Begun | None:
        """What is sent from now on, None if it has no version. The answer is the upload to go on with."""
        return None


async def deliver(
    exporter: Exporter,
    plan: ExportPlan,
    storage: Storage,
    target: Targeting,
    *,
    manner: Manner,
    record: Record | None = None,
    watch: Watch | None = None,
) -> Delivered:
    """The export as an object; it is there, whole and right, if this returns. `target` is told the length and the
    digest, as far as they are known.

    Conflict if the object exists and may not be replaced; SourceChanged; whatever the export or the storage raise.
    """
    return await _Delivery(exporter, plan, storage, target, manner, record or Record(), watch or Watch()).run()


class _Delivery:
    def __init__(
        self,
        exporter: Exporter,
        plan: ExportPlan,
        storage: Storage,
        target: Targeting,
        manner: Manner,
        record: Record,
        watch: Watch,
    ) -> None:
        self._exporter, self._plan, self._storage, self._target = exporter, plan, storage, target
        self._manner, self._record, self._watch = manner, record, watch
        self._outline: Outline | None = None
        self._steps = steps(manner.part, plan.length, storage.layout)
        self._size = plan.length
        self._promised = plan.body_digest
        self._pages = Pages(again=not storage.ordered)
        """An unordered storage has a part, or has failed, once `put` is back."""
        self._turns = Turns()
        self._hash = hashlib.sha256()
        self._hashing = anyio.CapacityLimiter(1)
        """A thread of its own: look-ups that hang must not hold it up."""
        self._hashed = 0
        self._stored = 0

    async def run(self) -> Delivered:
        await self._storage.refuse_existing(self._target(self._plan.length, self._promised))
        if self._manner.digest_first and self._promised is None:
            self._promised = await self._found_out()
        began = time.monotonic()
        outlined = self._plan.outline is not None and self._plan.body is Compression.NONE and self._plan.steady

        def span(outline: Outline) -> Span:
            """The first part, where the others can be made beside it; else everything. In the export's thread."""
            step = self._cut(outline.size).step
            several = self._manner.concurrency > 1 and outline.size > 2 * step
            return 0, step if several and time.monotonic() - began < _QUICK else outline.size

        async with self._open(Choice(span) if outlined else None) as stream:
            self._outline = stream.outline
            source = None
            if stream.outline is not None:
                self._size = stream.outline.size
                self._steps = self._cut(self._size)
                source = Source(stream.outline.etag, self._steps.step)
            self._watch.progress(0, self._size)
            begun = await self._watch.outlined(source)
            target = self._target(self._size, self._promised)
            async with self._storage.open(
                target, self._record, step=self._steps.step, concurrency=self._manner.concurrency, begun=begun
            ) as upload:
                if stream.span is not None and self._size is not None and stream.span[1] < self._size:
                    await self._in_ranges(upload, stream, self._size)
                else:
                    await self._in_order(upload, stream)
                digest = self._checked()
                await self._record.completing(self._hashed, digest)
                etag = await upload.complete(self._hashed, digest)
        return Delivered(self._hashed, digest, etag, stream.report)

    async def _found_out(self) -> str:
        """The digest, by making everything once for nothing else."""
        found = hashlib.sha256()
        async with self._open(None) as stream:
            async for chunk in stream:
                await anyio.to_thread.run_sync(found.update, chunk, limiter=self._hashing)
        return f"sha256:{found.hexdigest()}"

    def _cut(self, size: int) -> Steps:
        return steps(self._manner.part, size, self._storage.layout)

    @asynccontextmanager
    async def _open(self, choice: Choice | None) -> AsyncIterator[ExportStream]:
        """The stream, once the exporter has room for it: only the first one may be refused."""
        async with AsyncExitStack() as stack:
            while True:
                try:
                    # A delivery that was begun may go on when nothing new is begun any more.
                    opened = self._exporter.open(self._plan, choice, further=True)
                    stream = await stack.enter_async_context(opened)
                    break
                except Busy:
                    if self._outline is None:
                        raise
                await anyio.sleep(_BUSY_PAUSE)
            yield stream

    async def _in_order(self, upload: Upload, stream: ExportStream) -> None:
        """One stream, whose parts are sent while the next ones are made."""
        room = Room(self._steps.step * self._manner.concurrency)
        cutter, cutting, number = Cutter(stream), anyio.Lock(), 0

        async def work() -> None:
            nonlocal number
            while True:
                with ExitStack() as stack:
                    async with cutting:
                        if cutter.exhausted:
                            return
                        number += 1
                        mine, size = number, self._steps.length(number)
                        await room.take(size)
                        memory = stack.enter_context(self._pages.lent(size))
                        data, last = await cutter.take(memory), cutter.exhausted
                    await self._pass_on(upload, mine, data, last)
                room.give(size)

        async with tasks() as workers:
            for _ in range(self._manner.concurrency):
                workers.start_soon(work)

    async def _in_ranges(self, upload: Upload, first: ExportStream, size: int) -> None:
        """Every part by an export of its own; the first is open already."""
        count = -(-size // self._steps.step)
        numbers = iter(range(2, count + 1))

        async def work(stream: ExportStream | None) -> None:
            if stream is not None:
                with self._pages.lent(self._steps.step) as memory:
                    await self._pass_on(upload, 1, await Cutter(stream).take(memory), False)
            for number in numbers:
                with self._pages.lent(self._steps.step) as memory:
                    await self._pass_on(upload, number, await self._range(number, size, memory), number == count)

        async with tasks() as workers:
            for number in range(min(self._manner.concurrency, count)):
                workers.start_soon(work, None if number else first)

    async def _range(self, number: int, size: int, memory: memoryview) -> memoryview:
        """The bytes of one part, written into `memory`. SourceChanged if they would be of another version."""
        start = (number - 1) * self._steps.step
        stop = min(size, start + self._steps.step)
        first = self._outline
        assert first is not None

        def span(outline: Outline) -> Span | None:
            return (start, stop) if (outline.etag, outline.size) == (first.etag, first.size) else None

        async with self._open(Choice(span, start)) as stream:
            if stream.span is None:
                raise SourceChanged(f"cannot export {self._plan.title}: it was changed after its length was announced")
            return await Cutter(stream).take(memory[: stop - start])

    async def _pass_on(self, upload: Upload, number: int, data: memoryview, last: bool) -> None:
        """One part into the digest, and to the storage."""
        async with self._turns.turn(number):
            await anyio.to_thread.run_sync(self._hash.update, data, limiter=self._hashing)
            self._hashed += len(data)
            if self._storage.ordered:
                await upload.put(number, data, last=last)
        if not self._storage.ordered:
            await upload.put(number, data, last=last)
        self._stored += len(data)
        self._watch.progress(self._stored, self._size)

    def _checked(self) -> str:
        """The digest of the whole. SourceChanged if it, or the length, is not what was promised."""
        if self._size is not None and self._hashed != self._size:
            raise SourceChanged(
                f"cannot export {self._plan.title}: it gave {self._hashed} bytes of the {self._size} announced"
            )
        promised = self._promised
        digest = f"sha256:{self._hash.hexdigest()}"
        if promised is not None and promised.startswith("sha256:") and promised != digest:
            raise SourceChanged(f"cannot export {self._plan.title}: its content no longer has the digest {promised}")
        return digest
