"""Measuring in turn: every subject once, then every subject once more, so that what changes on the machine meanwhile
changes for all of them."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Protocol

from bench import namespace
from bench.errors import BenchError
from bench.stats import Spread, spread

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement."""

    seconds: float
    """From the start of the client, or of the peer's program, to its end."""
    first_byte: float | None
    """Seconds to the first byte that the client read (of HTTP: of the header)."""
    size: int
    """Bytes that arrived."""
    cpu: float
    """CPU seconds of the server and its children, or of the peer's programs; the client's are not counted."""
    peak: int
    """Bytes: highest resident size meanwhile, of all these processes together."""
    read: int = 0
    """Bytes that the machine read from its disks meanwhile, for whomever: how warm a warm cache was."""


class Subject(Protocol):
    """Something that can be measured again and again."""

    @property
    def name(self) -> str: ...

    @property
    def programs(self) -> Sequence[str]:
        """What `run` starts: read into a cold cache beforehand, as a server's program is there as well."""

    def prepared(self) -> AbstractContextManager[None]:
        """What has to be there while it runs and is not measured, like a mount."""

    def run(self) -> Sample:
        """BenchError if it fails."""


@dataclass(slots=True)
class Row:
    """What was measured of one subject."""

    subject: str
    variant: str = ""
    """For streamer: under which heading peers' ratios to this row stand."""
    against: dict[str, str] = field(default_factory=dict)
    """For peers: by variant, the row of streamer that it is compared with."""
    samples: list[Sample] = field(default_factory=list)
    failed: str = ""

    @property
    def seconds(self) -> list[float]:
        return [sample.seconds for sample in self.samples]

    @property
    def spread(self) -> Spread:
        return spread(self.seconds)


@dataclass(frozen=True, slots=True)
class Entrant:
    """A subject with its place in the table."""

    subject: Subject
    variant: str = ""
    against: dict[str, str] = field(default_factory=dict)


def interleaved(
    entrants: Sequence[Entrant], runs: int, say: Say, *, cold: bool = False, settle: bool = True
) -> list[Row]:
    """A row for each entrant, in their order: A B C A B C … With a warm cache a first round is not counted, unless
    `settle` is no. One that fails is left out from then on, and its row says so."""
    rows = [Row(each.subject.name, each.variant, dict(each.against)) for each in entrants]
    first = 1 if cold or not settle else 0
    for turn in range(first, runs + 1):
        for entrant, row in zip(entrants, rows, strict=True):
            if row.failed:
                continue
            try:
                sample = _once(entrant.subject, cold)
            except BenchError as error:
                row.failed = str(error)
                say(f"  {row.subject}: {error}")
                continue
            counted = f"{turn}/{runs}" if turn else "first, not counted"
            say(f"  {row.subject}: {sample.seconds:.3f} s, {sample.size >> 20:,} MiB ({counted})")
            if turn:
                row.samples.append(sample)
    return rows


def _once(subject: Subject, cold: bool) -> Sample:
    with subject.prepared():
        if cold:
            namespace.cold()
            for program in dict.fromkeys(["curl", *subject.programs]):
                subprocess.run([program, "--version"], stdin=subprocess.DEVNULL, capture_output=True, check=False)
        before = namespace.read_from_disks()
        sample = subject.run()
        return replace(sample, read=namespace.read_from_disks() - before)
