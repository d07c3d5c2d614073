"""What this kernel lets this process do, found by trying once: two empty directories are mounted in every way."""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from streamer.mounts import kernel
from streamer.mounts.ways import Way


@dataclass(frozen=True, slots=True)
class Attempt:
    """One way that was tried with one kind of marks; `error` is the kernel's refusal, None when it worked."""

    way: Way
    userxattr: bool
    error: OSError | None


@dataclass(frozen=True, slots=True)
class Features:
    """`openat2` as in openat2(2); everything about overlays is derived from `attempts`."""

    openat2: bool
    attempts: tuple[Attempt, ...]

    def way(self, *, userxattr: bool) -> Way | None:
        """The best way that works for a store with these marks, None when there is none."""
        for attempt in self.attempts:
            if attempt.userxattr == userxattr and attempt.error is None:
                return attempt.way
        return None

    def refusals(self, *, userxattr: bool) -> tuple[OSError, ...]:
        """Why the ways that do not work do not, best way first."""
        return tuple(one.error for one in self.attempts if one.userxattr == userxattr and one.error is not None)


_lock = threading.Lock()
_probed: list[Features] = []


def probe() -> Features:
    """The features of this process, tried at the first call (a few milliseconds) and remembered."""
    with _lock:
        if not _probed:
            _probed.append(probe_again())
        return _probed[0]


def probe_again() -> Features:
    """Try everything now, for tests and for privileges that changed; what `probe` remembers stays."""
    try:
        with _two_directories() as layers:
            attempts = tuple(
                Attempt(way, userxattr, _refusal(way, layers, userxattr)) for userxattr in (False, True) for way in Way
            )
    except OSError as error:
        # Nowhere to make two directories: say so of every way instead of failing where a single layer would do.
        attempts = tuple(Attempt(way, userxattr, error) for userxattr in (False, True) for way in Way)
    return Features(kernel.openat2_works(), attempts)


def _refusal(way: Way, layers: list[int], userxattr: bool) -> OSError | None:
    try:
        os.close(way.mount(layers, userxattr=userxattr))
    except OSError as error:
        return error.with_traceback(None)  # remembered for the life of the process, frames and all, otherwise
    return None


@contextlib.contextmanager
def _two_directories() -> Iterator[list[int]]:
    with tempfile.TemporaryDirectory(prefix="streamer-probe-") as root, contextlib.ExitStack() as stack:
        layers = []
        for name in ("a", "b"):
            path = os.path.join(root, name)
            os.mkdir(path)
            layers.append(os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
            stack.callback(os.close, layers[-1])
        yield layers
