from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import trees


@pytest.fixture(autouse=True)
def no_descriptor_left() -> Iterator[None]:
    """No test here leaves a descriptor open that it did not find."""
    before = set(os.listdir("/proc/self/fd"))
    yield
    # What a test before left to the garbage collector may have gone meanwhile.
    assert set(os.listdir("/proc/self/fd")) <= before


@pytest.fixture
def base(tmp_path: Path) -> Iterator[bytes]:
    """A directory whose contents of any depth go afterwards."""
    yield os.fsencode(tmp_path)
    trees.erase(tmp_path)


@pytest.fixture
def opened(no_descriptor_left: None) -> Iterator[Callable[[bytes], int]]:
    """Opens directories that are closed after the test."""
    fds: list[int] = []

    def open_directory(path: bytes) -> int:
        fds.append(os.open(path, os.O_RDONLY | os.O_DIRECTORY))
        return fds[-1]

    yield open_directory
    for fd in fds:
        os.close(fd)
