"""Without the mount in sight, and with one that never answers; real ones: tests/interop/test_fuse_overlay.py."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from streamer.mounts import writeback


def test_no_mount_in_sight(monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[bool] = []
    monkeypatch.setattr(os, "sync", lambda: synced.append(True))
    writeback.written_out(b"/nowhere/merged", b"fuse.fuse-overlayfs")
    assert synced == [True]


def test_a_descriptor_of_another_process_is_borrowed(tmp_path: Path) -> None:
    with open(tmp_path / "f", "wb") as file, open(f"/proc/self/fdinfo/{file.fileno()}", "rb") as info:
        number = next(line.split()[1] for line in info if line.startswith(b"mnt_id:"))
        borrowed = writeback._borrowed(os.getpid(), {number})
    assert borrowed is not None
    os.close(borrowed[0])
    assert borrowed[1] == number
    assert writeback._borrowed(os.getpid(), {b"0"}) is None


def test_a_file_system_that_never_answers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its thread is left behind until it does, with the descriptor; the export goes on."""
    answer = threading.Event()
    monkeypatch.setattr(writeback, "_PATIENCE", 0.01)
    monkeypatch.setattr(writeback, "_libc", SimpleNamespace(syncfs=lambda _: 0 if answer.wait() else -1))
    fd = os.open(tmp_path, os.O_RDONLY)
    writeback._flush(fd, b"/nowhere/merged")
    os.fstat(fd)
    answer.set()
    for thread in threading.enumerate():
        if thread.name == "syncfs":
            thread.join()
    with pytest.raises(OSError):
        os.fstat(fd)
