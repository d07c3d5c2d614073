"""Pausing a container of podman, through the `podman` program only.

podman has no daemon: each command takes its locks, works and ends. What CRI-O or Buildah run it does not know.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from streamer.errors import Conflict, EngineUnreachable, Unsupported
from streamer.stores.standstill import Standstill, standstill

DEADLINE = 10.0
"""Seconds for one command."""

_RUNROOT, _ALIVE = Path("/run/containers/storage"), Path("/run/libpod/alive")
"""Where podman keeps what lasts until the machine stops, if it runs as root and is not told otherwise."""

_UNKNOWN = re.compile(rb"no such (container|object)|no container with (name or )?ID", re.IGNORECASE)

State = tuple[object, ...]


@dataclass
class PodmanFreezer:
    """A Freezer for one container of the podman that works on `graphroot` and `runroot` (None: its own default).

    `options` are further ones of podman's own. It remembers how the container stood still when it was first seen so;
    `still` compares with that. podman itself remembers nothing: one that somebody resumed and paused again is noticed
    by its control group only, and not at all where that cannot be seen (see `stores.standstill`).
    """

    graphroot: Path
    runroot: Path | None
    container_id: str
    options: Sequence[str] = ()
    _seen: State | None = field(default=None, init=False, repr=False)
    _standstill: Standstill | None = field(default=None, init=False, repr=False)

    def pause(self) -> bool:
        """See Freezer. Unsupported for a container that podman does not know; Conflict where it refuses."""
        if self._remember():
            return False
        done = self._podman("pause", self.container_id)
        if done.returncode:
            if self._remember():
                return False  # paused or stopped by somebody in this very moment
            raise self._refused("pause", done)
        self._see(self._state())
        return True

    def resume(self) -> None:
        """See Freezer. Conflict if it stays paused all the same."""
        done = self._podman("unpause", self.container_id)
        if done.returncode and self._state()[0] == "paused":
            raise self._refused("resume", done)

    def still(self) -> bool:
        """See Freezer. Once it stood still: whether it did so ever since."""
        if self._seen is None:
            return self._remember()
        if self._seen[0] == "running" or self._state() != self._seen:
            return False
        return self._standstill is None or not self._standstill.ran()

    @property
    def resume_command(self) -> tuple[str, ...]:
        """See Freezer."""
        return (*self._command(), "unpause", self.container_id)

    def _remember(self) -> bool:
        state = self._state()
        if state == ("removed",):
            raise Unsupported(
                f"cannot pause container {self.container_id[:12]}: podman does not know it (another engine made it, or "
                "it was removed)"
            )
        if state[0] == "running":
            return False
        self._see(state)
        return True

    def _see(self, state: State) -> None:
        self._seen = state
        self._standstill = standstill(self.container_id, state[1]) if state[0] == "paused" else None

    def _state(self) -> State:
        """What changes whenever the container runs: its state's name first."""
        done = self._podman("container", "inspect", "--format", "{{json .State}}", self.container_id)
        if done.returncode:
            if _UNKNOWN.search(done.stderr):
                return ("removed",)
            raise self._unreachable(done.stderr)
        try:
            state: Any = json.loads(done.stdout)
        except ValueError:
            state = None
        if not isinstance(state, dict) or not isinstance(state.get("Status"), str):
            raise self._unreachable(b"no state in " + done.stdout[:300])
        name = "running" if state.get("Running") and not state.get("Paused") else state["Status"]
        return (name, state.get("Pid"), state.get("StartedAt"), state.get("FinishedAt"))

    def _podman(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        command = (*self._command(), *arguments)
        try:
            return subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, timeout=DEADLINE, check=False, cwd="/"
            )
        except subprocess.TimeoutExpired as error:
            raise self._unreachable(b"no answer in %d seconds" % DEADLINE) from error
        except OSError as error:
            raise self._unreachable(str(error).encode()) from error

    def _command(self) -> tuple[str, ...]:
        """podman with the options that name this store. EngineUnreachable if it is not installed."""
        program = shutil.which("podman")
        if program is None:
            raise self._unreachable(b"not found in PATH", "the program `podman` is not installed")
        try:
            owner = os.stat(self.graphroot).st_uid
        except OSError as error:
            raise self._unreachable(str(error).encode()) from error
        if owner != os.geteuid():
            # podman would take it for its own all the same, and leave files there that its owner cannot change.
            raise Unsupported(
                f"cannot pause container {self.container_id[:12]}: its store belongs to user {owner}; only a streamer "
                "that runs as this user can ask their podman"
            )
        self._looked_at()
        runroot = () if self.runroot is None else ("--runroot", str(self.runroot))
        return (program, "--root", str(self.graphroot), *runroot, *self.options)

    def _looked_at(self) -> None:
        """EngineUnreachable unless podman's state of now is here as well: where it is not (in another mount namespace,
        say), podman takes the machine for one just started, and notes in its store that no container runs."""
        state = [self.runroot] if self.runroot is not None else []
        if os.geteuid() == 0 and self.runroot in (None, _RUNROOT) and "--tmpdir" not in self.options:
            state = [_RUNROOT, _ALIVE]
        for path in state:
            if not path.exists():
                raise self._unreachable(f"no {path}".encode(), "podman's run root is not to be seen from here")

    def _refused(self, verb: str, done: subprocess.CompletedProcess[bytes]) -> Conflict:
        error = Conflict(f"cannot {verb} container {self.container_id[:12]}: podman refuses")
        error.add_note(_said(done.stderr))
        return error

    def _unreachable(self, said: bytes, why: str = "podman does not answer") -> EngineUnreachable:
        error = EngineUnreachable(f"cannot pause or resume container {self.container_id[:12]}: {why}")
        error.add_note(_said(said))
        return error


def _said(output: bytes) -> str:
    return output.decode(errors="replace").strip()[-1000:]
