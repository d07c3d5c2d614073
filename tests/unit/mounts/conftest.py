"""Layers on disk, and the proof that a test left nothing behind."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

MakeLayers = Callable[[int], tuple[bytes, ...]]


def _descriptors() -> dict[str, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the listing's own
            found[name] = os.readlink(f"/proc/self/fd/{name}")
    return found


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    before, threads = (_descriptors(), os.getcwd(), os.readlink("/proc/self/ns/mnt")), threading.active_count()
    yield
    after = (_descriptors(), os.getcwd(), os.readlink("/proc/self/ns/mnt"))
    assert after[1:] == before[1:]
    # What a test before left to the garbage collector may have gone meanwhile, and a thread of it may have ended.
    assert after[0].items() <= before[0].items()
    assert threading.active_count() <= threads


@pytest.fixture
def make_layers(tmp_path: Path) -> MakeLayers:
    """`make_layers(n)`: n directories, topmost first; each has a file named by its number, and `same` with it in."""

    def make(count: int) -> tuple[bytes, ...]:
        paths = []
        for number in range(count):
            layer = tmp_path / f"layer{number}" / "diff"
            layer.mkdir(parents=True)
            (layer / str(number)).touch()
            (layer / "same").write_text(str(number))
            paths.append(os.fsencode(layer))
        return tuple(paths)

    return make


@pytest.fixture
def opened() -> Iterator[Callable[[tuple[bytes, ...]], list[int]]]:
    """`opened(paths)`: O_PATH descriptors, closed after the test."""
    with contextlib.ExitStack() as stack:

        def open_all(paths: tuple[bytes, ...]) -> list[int]:
            descriptors = [os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) for path in paths]
            for descriptor in descriptors:
                stack.callback(os.close, descriptor)
            return descriptors

        yield open_all


DROP = """
import os
def drop():
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
"""


@pytest.fixture
def as_nobody() -> Callable[..., str]:
    """`as_nobody(code, *arguments)`: what Python prints for `code`, whose `drop()` makes it uid 65534, no capabilities.

    What it needs is imported before: the interpreter may lie where nobody else may look.
    """

    def run(code: str, *arguments: str) -> str:
        command = [sys.executable, "-W", "error", "-c", DROP + textwrap.dedent(code), *arguments]
        done = subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
