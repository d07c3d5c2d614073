"""Which job is next: no destination waits for another one's queue."""

from __future__ import annotations

import itertools

import pytest

from streamer.jobs.fairness import chosen


@pytest.mark.parametrize(
    ("waiting", "running", "served", "expected"),
    [
        ([], [], {}, None),
        ([("1", "a"), ("2", "a")], [], {}, "1"),
        ([("1", "a"), ("2", "b")], ["a"], {}, "2"),
        ([("1", "a"), ("2", "b")], ["a", "b"], {"a": 2, "b": 1}, "2"),
        ([("1", "a"), ("2", "b")], [], {"a": 1}, "2"),
        ([("1", "a"), ("2", "b"), ("3", "c")], ["b", "b", "c"], {}, "1"),
    ],
)
def test_chosen(
    waiting: list[tuple[str, str]], running: list[str], served: dict[str, int], expected: str | None
) -> None:
    assert chosen(waiting, running, served) == expected


def test_a_long_queue_delays_nobody_else() -> None:
    waiting = [(f"a{n}", "a") for n in range(100)] + [(f"b{n}", "b") for n in range(3)] + [("c0", "c")]
    turns, served, order = itertools.count(1), dict[str, int](), []
    while waiting:
        id = chosen(waiting, [], served)
        assert id is not None
        place = dict(waiting)[id]
        served[place] = next(turns)
        waiting.remove((id, place))
        order.append(id)
    assert order[:8] == ["a0", "b0", "c0", "a1", "b1", "a2", "b2", "a3"]
    assert order[8:] == [f"a{n}" for n in range(4, 100)]
