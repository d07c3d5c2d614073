"""The command line as a person or a script runs it: a process of its own, with pipes or with a terminal."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_ROOT = str(Path(__file__).parents[2])


def run(*args: object, **kwargs: Any) -> subprocess.CompletedProcess[bytes]:
    """Runs `streamer ARGS` to its end, with pipes unless told otherwise."""
    if "input" not in kwargs:
        kwargs.setdefault("stdin", subprocess.DEVNULL)
    return subprocess.run(_command(args), **{"timeout": 120, **_DEFAULTS, **kwargs}, env=_environment())


def start(*args: object, environment: Mapping[str, str] | None = None, **kwargs: Any) -> subprocess.Popen[bytes]:
    """Starts `streamer ARGS`, with pipes unless told otherwise; use it in a `with` block."""
    settings = {"stdin": subprocess.DEVNULL, **_DEFAULTS, **kwargs, "env": {**_environment(), **(environment or {})}}
    return subprocess.Popen(_command(args), **settings)


class Terminal:
    """A pseudo-terminal: `slave` for the process, `shown` what it has written so far."""

    def __init__(self) -> None:
        self.master, self.slave = pty.openpty()
        self.shown = b""

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *exc: object) -> None:
        os.close(self.master)
        os.close(self.slave)

    def wait_for(self, text: bytes, timeout: float = 60) -> None:
        """Reads until the text was shown."""
        end = time.monotonic() + timeout
        while text not in self.shown:
            if not self._read(end - time.monotonic()):
                raise AssertionError(f"{text!r} was not shown in {timeout} s, but {self.shown!r}")

    def until_end_of(self, process: subprocess.Popen[bytes], timeout: float = 120) -> bytes:
        """Everything shown by then. Read all the time: a terminal takes no more than it has room for."""
        end = time.monotonic() + timeout
        while process.poll() is None:
            assert time.monotonic() < end, f"it did not end in {timeout} s, but showed {self.shown!r}"
            self._read(0.05)
        return self.drain()

    def drain(self) -> bytes:
        """Everything shown, once the process has ended."""
        while self._read(0):
            pass
        return self.shown

    def _read(self, timeout: float) -> bool:
        if not select.select([self.master], [], [], max(0, timeout))[0]:
            return False
        self.shown += os.read(self.master, 1 << 16)
        return True


def _command(args: Sequence[object]) -> list[str]:
    return [sys.executable, "-W", "error", "-m", "streamer", *map(str, args)]


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("STREAMER_")}
    return {**kept, "PYTHONPATH": _ROOT, "TERM": "xterm", "COLUMNS": "120", "STREAMER_DISCOVER": "0"}


def plain_signals() -> None:
    """Test runs in the background have SIGINT ignored, and children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


_DEFAULTS: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "preexec_fn": plain_signals}
