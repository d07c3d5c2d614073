"""Plans over bytes in memory, served by the real application: versions, lengths and faults as a test wants them."""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from support.asking import ask
from support.clients import Answer
from support.serving import Served, served
from support.stores import DirectoryStore

from streamer.errors import SourceChanged
from streamer.export.plan import ExportPlan, Kind, Options, Outline, Session, Span
from streamer.tar.region import Chunk, Region
from streamer.web import archives

TARGET = "/v1/containers/box/archive"


@dataclass
class Planned:
    """What the container `box` is: `data`, of which an outline tells length and version."""

    data: bytes = field(default=b"", repr=False)
    etag: str = "v1"
    known: bool = True
    """Whether there is an outline at all."""
    steady: bool = True
    size: int | None = None
    """What the plan itself says, without any outline."""
    digest: str | None = None
    piece: int = 100_000
    fault: Callable[[Iterator[Any]], Iterator[Any]] = iter
    """Between the bytes and whoever reads them."""
    settled: Callable[[], None] = lambda: None
    """What regions call after they were sent."""
    refusal: Exception | None = None
    """Raised in place of an outline."""
    spans: list[Span] = field(default_factory=list)
    """Every part that was begun."""
    hints: list[int] = field(default_factory=list)
    """The first byte that each outline was told to expect."""
    open: int = 0
    """Sources that are open."""
    lies_in: int | None = None
    """A descriptor of a file with the data, if pieces are to come as regions of it."""
    gate: threading.Event | None = None
    """If there is one, parts wait before each piece until it is set."""

    def plan(self, _container: object, options: Options) -> ExportPlan:
        return ExportPlan(
            kind=Kind.CONTAINER,
            title="container box of store memory",
            basename="box",
            chunks=lambda session: self._part((0, len(self.data)), session.regions),
            compression=options.compression,
            size=self.size,
            digest=self.digest,
            outline=self._outline if self.known else None,
            steady=self.steady,
        )

    @contextlib.contextmanager
    def _outline(self, _session: Session, first: int) -> Iterator[Outline]:
        self.hints.append(first)
        if self.refusal is not None:
            raise self.refusal
        self.open += 1
        try:
            yield Outline(len(self.data), self.etag, self._part)
        finally:
            self.open -= 1

    def _part(self, span: Span, regions: bool = True) -> Iterator[Chunk]:
        self.spans.append(span)
        return self.fault(self._pieces(span, regions))

    def _pieces(self, span: Span, regions: bool) -> Iterator[Chunk]:
        for start in range(*span, self.piece):
            if self.gate is not None:
                self.gate.wait(60)
            stop = min(start + self.piece, span[1])
            if self.lies_in is not None and regions:
                yield Region(self.lies_in, start, stop - start, self._read, self.settled)
            else:
                yield self.data[start:stop]

    def _read(self, size: int, offset: int) -> bytes:
        assert self.lies_in is not None
        data = os.pread(self.lies_in, size, offset)
        if not data:
            raise SourceChanged(f"it ends at byte {offset}")
        return data


@dataclass
class PlannedSite:
    planned: Planned
    running: Served
    portal: BlockingPortal

    @property
    def port(self) -> int:
        return self.running.port

    def ask(self, query: str = "", method: str = "GET", **headers: str) -> Answer:
        lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        return ask(self.port, TARGET + query, method, lines)

    def idle(self) -> None:
        """Wait until no export is open."""
        self.portal.call(self.running.exporter.idle)


@contextlib.contextmanager
def installed(planned: Planned) -> Iterator[DirectoryStore]:
    """A store whose container `box` is what `planned` says."""
    with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        patch.setattr(archives, "plan_container", planned.plan)
        store = DirectoryStore()
        store.add("box", Path(directory))
        yield store


@contextlib.contextmanager
def planned_site(planned: Planned, **options: Any) -> Iterator[PlannedSite]:
    """The application with that store, served in a thread while the block is open."""

    @contextlib.asynccontextmanager
    async def opened() -> AsyncIterator[Served]:
        async with served(store, **options) as running:
            yield running

    with (
        installed(planned) as store,
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(opened()) as running,
    ):
        yield PlannedSite(planned, running, portal)
