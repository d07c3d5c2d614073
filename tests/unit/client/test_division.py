from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.client.division import SMALLEST, Division, Spans

_SPANS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=12)


def _bytes(spans: object) -> set[int]:
    return {number for start, stop in spans for number in range(start, stop)}  # type: ignore[attr-defined]


@given(_SPANS)
def test_spans_are_a_set_of_bytes(added: list[tuple[int, int]]) -> None:
    spans = Spans(added)
    found = list(spans)
    assert _bytes(found) == _bytes(added)
    assert all(a < b for a, b in found)
    assert all(one[1] < other[0] for one, other in pairwise(found)), "they overlap or touch"
    assert spans.total == len(_bytes(added))
    assert _bytes(spans.gaps(64)) == set(range(64)) - _bytes(added)
    assert spans.prefix == next(number for number in range(100) if number not in _bytes(added))


@pytest.mark.parametrize("jobs", [1, 2, 3, 7, 16])
@pytest.mark.parametrize(
    "gaps",
    [[(0, 1)], [(0, 1 << 30)], [(5, SMALLEST), (SMALLEST + 9, 1 << 29)], [(i << 24, (i << 24) + 7) for i in range(50)]],
)
def test_everything_is_claimed_by_somebody(jobs: int, gaps: list[tuple[int, int]]) -> None:
    """Jobs of very different speed, whose pieces shrink when others take from them."""
    chance = random.Random(jobs)
    division, fetched = Division(gaps, jobs), Spans()
    running = [piece for _ in range(jobs) if (piece := division.claim()) is not None]
    assert running
    assert running[0].position == gaps[0][0]
    requests = len(running)
    while running:
        piece = chance.choice(running[:2])  # the rest is stuck
        stop = min(piece.position + chance.randrange(1, 4 << 20), piece.stop)
        fetched.add(piece.position, stop)
        piece.position = stop
        if not piece.left:
            running.remove(piece)
            if (more := division.claim()) is not None:
                running.append(more)
                requests += 1
    assert fetched.gaps(1 << 40)[0][0] == (0 if gaps[0][0] else gaps[0][1])
    assert fetched.total == sum(stop - start for start, stop in gaps)
    assert list(fetched) == gaps
    missing = sum(stop - start for start, stop in gaps)
    assert requests <= len(gaps) + jobs + 2 * missing // SMALLEST


def test_one_job_asks_once() -> None:
    division = Division([(0, 1 << 40)], 1)
    piece = division.claim()
    assert piece is not None
    assert piece.span == (0, 1 << 40)


def test_little_is_not_divided() -> None:
    division = Division([(0, SMALLEST + 1)], 4)
    assert division.claim() is not None
    assert division.claim() is None
