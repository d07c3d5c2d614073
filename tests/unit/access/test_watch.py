"""Files that change under a running service: a new state counts, a broken one does not."""

from __future__ import annotations

import os
from pathlib import Path

import anyio
import pytest
import structlog
from support.keys import Keys

from streamer.access import watch
from streamer.access.scope import EVERYTHING
from streamer.access.watch import follow


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    made = Keys(tmp_path / "tokens")
    made.add("first", EVERYTHING)
    return made


def names(watched) -> list[str]:
    return [token.name for token in watched.value]


def test_a_change_counts_from_the_next_look(keys: Keys) -> None:
    watched = keys.watched()
    assert not watched.refresh()
    keys.add("second", EVERYTHING)
    assert names(watched) == ["first"]
    assert watched.refresh()
    assert names(watched) == ["first", "second"]
    assert not watched.refresh()


def test_a_file_that_takes_its_place(keys: Keys, tmp_path: Path) -> None:
    """As editors and volumes of secrets do it: same size and time, another inode."""
    watched = keys.watched()
    status = keys.path.stat()
    other = Keys(tmp_path / "other")
    other.add("other", EVERYTHING)
    os.utime(other.path, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.path.rename(keys.path)
    assert watched.refresh()
    assert names(watched) == ["other"]


@pytest.mark.parametrize("broken", ["nonsense", "mode", "missing", "half", "deep"])
def test_a_broken_file_keeps_the_tokens_and_is_logged_once(keys: Keys, broken: str) -> None:
    watched = keys.watched()
    text = keys.path.read_text()
    if broken == "mode":
        keys.add("second", EVERYTHING)
        keys.path.chmod(0o644)
    elif broken == "missing":
        keys.path.unlink()
    else:
        deep = "a = " + "[" * 5000  # more than the parser's own stack holds
        keys.path.write_text({"nonsense": "nonsense", "deep": deep}.get(broken, text[: len(text) // 2]))
    with structlog.testing.capture_logs() as logs:
        assert not watched.refresh()
        assert not watched.refresh()
    assert names(watched) == ["first"]
    assert [(each["log_level"], each["event"]) for each in logs] == [("error", "tokens not reloaded")]
    assert str(keys.path) in str(logs[0])
    keys.path.unlink(missing_ok=True)
    keys.path.touch(0o600)
    assert watched.refresh(), "and mended it counts"
    assert names(watched) == []


def test_forced(keys: Keys) -> None:
    assert keys.watched().refresh(force=True)


async def test_followed(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "PERIOD", 0.01)
    watched, changed = keys.watched(), anyio.Event()
    calls: list[None] = []

    async def told() -> None:
        calls.append(None)
        if len(calls) == 1:
            raise OSError("no descriptor is free")
        changed.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(follow, watched, told)
        keys.add("second", EVERYTHING)
        with anyio.fail_after(60):
            await changed.wait()
        tasks.cancel_scope.cancel()
    assert names(watched) == ["first", "second"]
    assert len(calls) == 2, "told again after the first time failed"


def test_a_file_that_is_written_anew_within_its_size_and_time(keys: Keys) -> None:
    watched = keys.watched()
    status = keys.path.stat()
    text = keys.path.read_text()
    keys.path.write_text(text.replace("first", "other"))
    os.utime(keys.path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert keys.path.stat().st_size == status.st_size
    assert watched.refresh()
    assert names(watched) == ["other"]
