"""Real overlay mounts for tests, made with the `mount` program and always taken down again."""

from __future__ import annotations

import fcntl
import functools
import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

PARAMETERS = Path("/sys/module/overlay/parameters")
"""What overlays have that are mounted without a word of it, by whomever on this machine."""


@contextmanager
def parameters(*, change: bool) -> Iterator[None]:
    """While it is open nobody else changes them; or looks on while they are as they usually are not."""
    lock = os.open(PARAMETERS, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX if change else fcntl.LOCK_SH)
        yield
    finally:
        os.close(lock)


@functools.cache
def possible() -> str | None:
    """None if this process can mount overlays, else why not."""
    if os.geteuid() != 0:
        return "needs root"
    with tempfile.TemporaryDirectory() as base:
        for name in ("a", "u", "w", "m"):
            os.mkdir(f"{base}/{name}")
        result = subprocess.run(
            ["mount", "-t", "overlay", "-o", f"lowerdir={base}/a,upperdir={base}/u,workdir={base}/w", "o", f"{base}/m"],
            capture_output=True,
            text=True,
        )
        if result.returncode != 0:
            return f"cannot mount an overlay: {result.stderr.strip()}"
        subprocess.run(["umount", f"{base}/m"], check=True)
    return None


def require() -> None:
    """Skips the test, saying why, where overlays cannot be mounted."""
    if reason := possible():
        pytest.skip(reason)


@contextmanager
def mounted(lowers: Sequence[bytes], upper: bytes | None = None, *, options: str = "index=off") -> Iterator[bytes]:
    """The path where the layers (topmost first) lie merged, writable if `upper` is given, until the block is left."""
    scratch = os.path.dirname(upper) if upper is not None else None
    with tempfile.TemporaryDirectory(dir=os.fsdecode(scratch) if scratch else None) as base:
        target = os.path.join(os.fsencode(base), b"merged")
        os.mkdir(target)
        layers = b"lowerdir=" + b":".join(lowers)
        if upper is not None:
            work = os.path.join(os.fsencode(base), b"work")
            os.mkdir(work)
            layers += b",volatile,upperdir=" + upper + b",workdir=" + work  # or each umount syncs the disk
        elif len(lowers) == 1:
            empty = os.path.join(os.fsencode(base), b"empty")
            os.mkdir(empty)
            layers += b":" + empty
        subprocess.run(
            ["mount", "-t", "overlay", "-o", layers + b"," + options.encode(), "overlay", target], check=True
        )
        try:
            yield target
        finally:
            subprocess.run(["umount", target], check=True)
