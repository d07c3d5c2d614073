"""The order of measurements, and what becomes of subjects that fail."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

import pytest

from bench.errors import BenchError
from bench.measure import Entrant, Sample, interleaved
from bench.peers import Pipeline


@dataclass
class Recorded:
    """A subject that writes down when it runs, and fails from one run on."""

    name: str
    log: list[str]
    fails_from: int = 1000
    programs: tuple[str, ...] = ()
    runs: int = field(default=0)

    def prepared(self) -> AbstractContextManager[None]:
        return self._prepared()

    @contextmanager
    def _prepared(self) -> Iterator[None]:
        self.log.append(f"<{self.name}")
        yield
        self.log.append(f"{self.name}>")

    def run(self) -> Sample:
        self.runs += 1
        if self.runs >= self.fails_from:
            raise BenchError("broken")
        self.log.append(self.name)
        return Sample(float(self.runs), None, 1, 0.0, 0)


def test_subjects_take_turns_and_the_first_round_does_not_count() -> None:
    log: list[str] = []
    rows = interleaved([Entrant(Recorded("a", log)), Entrant(Recorded("b", log))], 2, lambda _: None)
    assert [each for each in log if len(each) == 1] == ["a", "b", "a", "b", "a", "b"]
    assert log[:3] == ["<a", "a", "a>"]
    assert [row.seconds for row in rows] == [[2.0, 3.0], [2.0, 3.0]]


def test_every_round_counts_where_nothing_has_to_settle() -> None:
    rows = interleaved([Entrant(Recorded("a", []))], 2, lambda _: None, settle=False)
    assert rows[0].seconds == [1.0, 2.0]


def test_one_that_fails_is_left_out_from_then_on() -> None:
    log: list[str] = []
    said: list[str] = []
    failing = Recorded("a", log, fails_from=3)
    rows = interleaved([Entrant(failing), Entrant(Recorded("b", log))], 4, said.append)
    assert failing.runs == 3
    assert (rows[0].failed, rows[0].seconds) == ("broken", [2.0])
    assert (rows[1].failed, len(rows[1].samples)) == ("", 4)
    assert any("broken" in line for line in said)


def test_pipeline_counts_what_comes_out_of_the_last_program() -> None:
    sample = Pipeline("x", (("printf", "%s", "0123456789"), ("cat",), ("head", "-c", "4"))).run()
    assert sample.size == 4
    assert sample.first_byte is not None
    assert 0 < sample.first_byte <= sample.seconds


def test_pipelines_at_once_add_up() -> None:
    assert Pipeline("x", (("printf", "%s", "0123456789"),)).times(3).run().size == 30


@pytest.mark.parametrize("commands", [(("cat", "/nothing/here"),), (("cat", "/nothing/here"), ("cat",))])
def test_pipeline_that_fails_tells_why(commands: tuple[tuple[str, ...], ...]) -> None:
    with pytest.raises(BenchError, match="/nothing/here"):
        Pipeline("x", commands).run()
