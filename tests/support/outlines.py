"""Outlines of plans without an exporter: what is known beforehand, and spans of the bytes."""

from __future__ import annotations

import io
import random
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from streamer.export.plan import ExportPlan, Outline, Report, Session
from streamer.mounts.table import MountTable


def session(check: Callable[[], None] = lambda: None) -> Session:
    return Session(MountTable(), Report(), check)


@contextmanager
def outlined(plan: ExportPlan) -> Iterator[Outline]:
    assert plan.outline is not None
    with plan.outline(session(), 0) as outline:
        yield outline


def part(plan: ExportPlan, start: int = 0, stop: int | None = None) -> bytes:
    """The bytes of a span (`stop` None: to the end), by an outline of their own."""
    with outlined(plan) as outline:
        return b"".join(outline.part((start, outline.size if stop is None else stop)))


def edges(archive: bytes) -> list[int]:
    """Where members, their contents and their paddings begin and end, as far as `tarfile` sees any."""
    found = {0, len(archive)}
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        for member in opened:
            end = member.offset_data + (member.size if member.isreg() and not member.issparse() else 0)
            found |= {member.offset, member.offset_data, end, -(-end // 512) * 512}
    return sorted(edge for edge in found if edge <= len(archive))


def spans(archive: bytes, number: int = 40, seed: int = 1) -> list[tuple[int, int]]:
    """Spans worth trying: nothing, one byte, all, and some that begin and end at or beside the edges of members."""
    size = len(archive)
    near = sorted({edge + n for edge in edges(archive) for n in (-1, 0, 1) if 0 <= edge + n <= size})
    pick = random.Random(seed)
    some = [sorted(pick.choices(near, k=2)) for _ in range(number)]
    ends = [(0, 0), (0, 1), (0, size), (size - 1, size), (size, size), (size // 2, size)]
    return [*(span for span in ends if span[0] >= 0), *((start, stop) for start, stop in some)]
