from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from streamer.cli.source import Input, source
from streamer.errors import Draining, InvalidRequest, NotFound


def test_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"content")
    with source(str(tmp_path / "a.tar")) as opened:
        assert isinstance(opened, Input)
        assert opened.size == 7
        assert [opened.read(4), opened.read(4), opened.read(4)] == [b"cont", b"ent", b""]


def test_a_directory_is_its_path(tmp_path: Path) -> None:
    with source(str(tmp_path)) as opened:
        assert opened == tmp_path


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"cannot read .*/no\.tar: No such file"), source(str(tmp_path / "no.tar")):
        raise AssertionError


def test_a_terminal_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "isatty", lambda fd: fd == 0)
    with pytest.raises(InvalidRequest, match="terminal: name a FILE"), source("-"):
        raise AssertionError


def test_a_wait_for_input_that_never_comes_is_ended(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    ended: list[BaseException] = []
    waiting = threading.Event()
    with source(str(tmp_path / "fifo")) as opened:  # nobody ever opens the other end
        assert isinstance(opened, Input)
        assert opened.size is None

        def reader() -> None:
            waiting.set()
            try:
                opened.read(1)
            except Draining as error:
                ended.append(error)

        thread = threading.Thread(target=reader)
        thread.start()
        assert waiting.wait(60)
        opened.stop()
        thread.join(60)
    assert [str(error) for error in ended] == [f"reading {tmp_path}/fifo was interrupted"]
