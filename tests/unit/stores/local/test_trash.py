"""Trees of any depth and shape go, in few descriptors."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from streamer.stores.local import trash


def test_deep_wide_and_odd(tmp_path: Path) -> None:
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        os.mkdir("deep", dir_fd=folder)
        here = os.open("deep", os.O_RDONLY, dir_fd=folder)
        for _ in range(1500):
            os.mkdir("n" * 200, 0o000, dir_fd=here) if os.geteuid() == 0 else os.mkdir("n" * 200, dir_fd=here)
            below = os.open("n" * 200, os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = below
        os.close(here)
        (tmp_path / "wide").mkdir()
        for number in range(2000):
            (tmp_path / "wide" / f"d{number}").mkdir()
        (tmp_path / "file").write_text("x")
        (tmp_path / "link").symlink_to("/etc")
        os.mkfifo(tmp_path / "wide" / "fifo")
        (tmp_path / "wide" / "link").symlink_to(tmp_path.parent)
        trash.empty(folder)
        assert os.listdir(folder) == []
    finally:
        os.close(folder)
    assert os.path.isdir("/etc")


@pytest.mark.root
def test_what_cannot_be_deleted_keeps_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/immutable").write_text("x")
    (tmp_path / "b").mkdir()
    (tmp_path / "b/file").write_text("x")
    folder = os.open(tmp_path, os.O_RDONLY)
    subprocess.run(["chattr", "+i", tmp_path / "a/immutable"], check=True)
    try:
        with pytest.raises(PermissionError):
            trash.empty(folder)
        assert os.listdir(folder) == ["a"]
    finally:
        subprocess.run(["chattr", "-i", tmp_path / "a/immutable"], check=True)
    trash.empty(folder)
    assert os.listdir(folder) == []
    os.close(folder)
