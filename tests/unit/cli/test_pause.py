"""`--pause`: for what it is, and how its limit is set."""

from __future__ import annotations

import pytest
from support.commandline import run

from streamer.errors import InvalidRequest
from streamer.settings import load


@pytest.mark.parametrize("kind", ["layer", "image", "rootfs"])
def test_what_never_changes_is_not_paused(tmp_path, kind: str) -> None:
    done = run("export", kind, "x", "--pause", "--state", tmp_path)
    assert done.returncode == 2
    assert f"--pause is for containers and their diffs: a {kind} never changes" in done.stderr.decode()


def test_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMER_PAUSE_LIMIT", "2.5")
    assert load().pause_limit == 2.5


@pytest.mark.parametrize("value", ["0", "-1", "inf", "nan", "1e300", "long"])
def test_a_limit_that_is_none(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("STREAMER_PAUSE_LIMIT", value)
    with pytest.raises(InvalidRequest, match="STREAMER_PAUSE_LIMIT="):
        load()
