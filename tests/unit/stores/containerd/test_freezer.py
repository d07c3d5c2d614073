"""Pausing by what containerd says of a container's task."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.empty_pb2 import Empty

from streamer.errors import Conflict, EngineUnreachable
from streamer.stores.containerd.api.task_pb2 import Process, Status
from streamer.stores.containerd.api.tasks_pb2 import GetResponse
from streamer.stores.containerd.freezer import ContainerdFreezer
from streamer.stores.containerd.methods import PAUSE_TASK, RESUME_TASK, TASK


class Task:
    """A task that can be paused; `status` is None where there is none."""

    def __init__(self, engine: Any, refusal: Callable[..., Exception], status: str | None) -> None:
        self.status = status
        self._refusal = refusal
        engine.on(TASK, self._get)
        engine.on(PAUSE_TASK, lambda _: self._become("PAUSED"))
        engine.on(RESUME_TASK, lambda _: self._become("RUNNING"))

    def _get(self, _: Any) -> GetResponse:
        if self.status is None:
            raise self._refusal("NOT_FOUND")
        return GetResponse(process=Process(status=Status.Value(self.status)))

    def _become(self, status: str) -> Empty:
        self.status = status
        return Empty()


def freezer(engine: Any) -> ContainerdFreezer:
    return ContainerdFreezer(engine.client(), str(engine.socket), "tests", "c1")


def test_a_running_container(engine: Any, refusal: Callable[..., Exception]) -> None:
    task, made = Task(engine, refusal, "RUNNING"), freezer(engine)
    assert not made.still()
    assert made.pause()
    assert (task.status, made.still()) == ("PAUSED", True)
    made.resume()
    assert task.status == "RUNNING"
    made.resume()
    assert {question.container_id for _, question, _ in engine.asked} == {"c1"}


@pytest.mark.parametrize("status", ["PAUSED", "CREATED", "STOPPED", None])
def test_nothing_to_pause(engine: Any, refusal: Callable[..., Exception], status: str | None) -> None:
    task, made = Task(engine, refusal, status), freezer(engine)
    assert not made.pause()
    assert made.still()
    assert task.status == status


@pytest.mark.parametrize("question", ["pause", "still"])
def test_somebody_elses_pause_is_waited_for(engine: Any, refusal: Callable[..., Exception], question: str) -> None:
    task, made = Task(engine, refusal, "PAUSING"), freezer(engine)
    answers = iter([*["PAUSING"] * 3, *["PAUSED"] * 2, "RUNNING", "PAUSING"])

    def get(_: Any) -> GetResponse:
        return GetResponse(process=Process(status=Status.Value(next(answers))))

    engine.on(TASK, get)
    if question == "pause":
        assert not made.pause()
    else:
        assert made.still()
    assert made.still()
    assert not made.still()
    assert not made.still(), "it is just being paused again"
    assert task.status == "PAUSING"


@pytest.mark.parametrize("question", ["pause", "still"])
def test_somebody_elses_pause_that_never_ends(
    engine: Any, refusal: Callable[..., Exception], monkeypatch: pytest.MonkeyPatch, question: str
) -> None:
    monkeypatch.setattr("streamer.stores.containerd.freezer.PAUSING_MAX", 0.05)
    task, made = Task(engine, refusal, "PAUSING"), freezer(engine)
    with pytest.raises(Conflict, match="somebody else is pausing it"):
        getattr(made, question)()
    assert task.status == "PAUSING"


def test_resumed_before_it_was_seen_to_stand_still(engine: Any, refusal: Callable[..., Exception]) -> None:
    task, made = Task(engine, refusal, "RUNNING"), freezer(engine)
    engine.on(PAUSE_TASK, lambda _: Empty())  # done, and undone
    assert made.pause()
    assert not made.still()
    task.status = "PAUSED"
    assert not made.still(), "paused again, by somebody else"


@pytest.mark.parametrize(("then", "error"), [("STOPPED", None), (None, None), ("PAUSED", None), ("RUNNING", Conflict)])
def test_pausing_fails(
    engine: Any, refusal: Callable[..., Exception], then: str | None, error: type[Exception] | None
) -> None:
    task, made = Task(engine, refusal, "RUNNING"), freezer(engine)

    def fail(_: Any) -> Empty:
        task.status = then
        raise refusal("UNKNOWN", "cannot pause")

    engine.on(PAUSE_TASK, fail)
    if error is None:
        assert not made.pause()
    else:
        with pytest.raises(error, match="c1"):
            made.pause()


@pytest.mark.parametrize(("then", "error"), [("STOPPED", None), (None, None), ("RUNNING", None), ("PAUSED", Conflict)])
def test_resuming_fails(
    engine: Any, refusal: Callable[..., Exception], then: str | None, error: type[Exception] | None
) -> None:
    task, made = Task(engine, refusal, "PAUSED"), freezer(engine)

    def fail(_: Any) -> Empty:
        task.status = then
        raise refusal("UNKNOWN")

    engine.on(RESUME_TASK, fail)
    if error is None:
        made.resume()
    else:
        with pytest.raises(error, match="c1"):
            made.resume()


def test_an_answer_that_was_lost_leaves_nothing_paused(engine: Any, refusal: Callable[..., Exception]) -> None:
    task, made = Task(engine, refusal, "RUNNING"), freezer(engine)

    def lose(_: Any) -> Empty:
        task.status = "PAUSED"
        raise refusal("UNAVAILABLE")

    engine.on(PAUSE_TASK, lose)
    with pytest.raises(EngineUnreachable):
        made.pause()
    assert task.status == "RUNNING"


def test_the_command_that_resumes(engine: Any, refusal: Callable[..., Exception]) -> None:
    task, made = Task(engine, refusal, "PAUSED"), freezer(engine)
    done = subprocess.run(made.resume_command, capture_output=True, check=False)
    assert (done.returncode, done.stderr, task.status) == (0, b"", "RUNNING")
    done = subprocess.run([*made.resume_command[:4], "/nowhere", "n", "c1"], capture_output=True, check=False)
    assert done.returncode == 1
    assert b"container c1 could not be resumed" in done.stderr
    assert b"Traceback" not in done.stderr
    assert subprocess.run([sys.executable, *made.resume_command[1:4]], capture_output=True, check=False).returncode == 2


def test_the_command_that_resumes_imports_nothing_from_where_it_runs(
    engine: Any, refusal: Callable[..., Exception], tmp_path: Path
) -> None:
    task, made = Task(engine, refusal, "PAUSED"), freezer(engine)
    (tmp_path / "streamer.py").write_text("raise SystemExit('somebody else')")
    done = subprocess.run(made.resume_command, cwd=tmp_path, capture_output=True, check=False)
    assert (done.returncode, done.stderr, task.status) == (0, b"", "RUNNING")


@pytest.mark.parametrize("status", ["RUNNING", "STOPPED", "CREATED", None])
def test_what_did_not_stand_still_all_the_time(
    engine: Any, refusal: Callable[..., Exception], status: str | None
) -> None:
    task, made = Task(engine, refusal, "RUNNING"), freezer(engine)
    assert made.pause()
    task.status = status
    assert not made.still()
