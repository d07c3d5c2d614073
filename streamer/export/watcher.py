"""A process beside ours that undoes a pause if we are killed before we could: SIGKILL runs no `finally`.

It dies with us where its whole control group is killed (a container that is removed, `KillMode=control-group`).
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import threading
from collections.abc import Sequence

from streamer.errors import SourceFailed

# `read` fails when the pipe closes without a word. An engine that is just being restarted answers after a while.
_SCRIPT = """
read -r answer && exit 0
tries=0
until "$@"; do
  tries=$((tries + 1))
  [ "$tries" -lt 10 ] || exit 1
  sleep 1
done
"""

_IGNORED = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)


class Watcher:
    """Runs `command` once this process is gone or `desert` was called, unless `dismiss` was called before."""

    def __init__(self, command: Sequence[str]) -> None:
        # What is meant to end every process of a group must not end this one first, not even while it starts: it
        # inherits the mask of this thread.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, _IGNORED)
        try:
            # A session of its own: Ctrl-C in our terminal is not for it. It inherits nothing but its end of the pipe.
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", _SCRIPT, "watcher", *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as error:
            raise SourceFailed(f"cannot start the process that would resume a paused container: {error}") from error
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    @property
    def pid(self) -> int:
        return self._process.pid

    def dismiss(self) -> None:
        """Nothing is left to be done. Waits until the process is gone."""
        self._close(b"done\n")
        self._process.wait()

    def desert(self) -> None:
        """Leave the work to the process now, and wait for nothing."""
        self._close(b"")
        # Somebody has to take its exit status, or it stays a zombie as long as we live.
        # Without a thread that is whoever starts the next process (see `subprocess.Popen`).
        with contextlib.suppress(RuntimeError):
            threading.Thread(target=self._process.wait, name="watcher", daemon=True).start()

    def _close(self, word: bytes) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(word)
            self._process.stdin.close()
        except BrokenPipeError:
            pass  # somebody ended it
