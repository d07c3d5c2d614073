"""Pausing a container of a Docker engine, through its API only.

Never through the control group behind its back: runc then takes the container for one that does not run, and the
engine goes on telling that it does (https://docs.docker.com/reference/api/engine/ has the calls used here).
"""

from __future__ import annotations

import http.client
import json
import os
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from streamer.errors import Conflict, EngineUnreachable
from streamer.stores.docker import resume
from streamer.stores.standstill import Standstill, standstill

_REMAPPED = re.compile(r"\d+\.\d+")
"""Where an engine with remapped users keeps its data: in a directory of its data root named by the first IDs."""

_RUNS_AGAIN = ("unpause", "start")

State = tuple[object, ...]


@dataclass
class DockerFreezer:
    """A Freezer for one container of the engine that listens at one of `sockets` and works on `data_root`.

    `named`: somebody said that the engine is there; it need not know the data root by the same path, if it knows the
    container.

    It remembers how the container stood still when it was first seen so; `still` compares with that. One that somebody
    resumed and paused again is noticed by its control group (see `stores.standstill`); where that cannot be seen, by
    the engine's events, of which it keeps the last 256 only.
    """

    sockets: Sequence[str]
    data_root: Path
    container_id: str
    named: bool = False
    _socket: str | None = field(default=None, init=False, repr=False)
    _seen: State | None = field(default=None, init=False, repr=False)
    _since: float = field(default=0, init=False, repr=False)
    _standstill: Standstill | None = field(default=None, init=False, repr=False)

    def pause(self) -> bool:
        """See Freezer. Conflict where the engine refuses (no cgroups, restarting just now, …)."""
        if self._remember():
            return False
        began = time.time()
        status, answer = self._ask("POST", f"/containers/{self.container_id}/pause")
        if status != 204:
            if self._remember():
                return False  # paused, stopped or removed by somebody in this very moment
            error = Conflict(f"cannot pause container {self.container_id[:12]}: the Docker engine refuses")
            error.add_note(_message(answer))
            raise error
        self._see(self._state(), began)
        return True

    def resume(self) -> None:
        """See Freezer. Conflict if it stays paused all the same."""
        status, answer = self._ask("POST", f"/containers/{self.container_id}/unpause")
        if status not in (204, 404) and "paused" in self._state():
            error = Conflict(f"cannot resume container {self.container_id[:12]}: the Docker engine refuses")
            error.add_note(_message(answer))
            raise error

    def still(self) -> bool:
        """See Freezer. Once it stood still: whether it did so ever since."""
        if self._seen is None:
            return self._remember()
        return self._seen[0] != "running" and self._state() == self._seen and not self._ran()

    @property
    def resume_command(self) -> tuple[str, ...]:
        """See Freezer."""
        # As a file, not as a module: the process may stand in another directory by then. Isolated, and without site
        # packages, it takes a tenth of a second to be done.
        return (sys.executable, "-I", "-S", os.path.abspath(resume.__file__), self._engine(), self.container_id)

    def _remember(self) -> bool:
        since = time.time()
        state = self._state()
        if state[0] == "running":
            return False
        self._see(state, since)
        return True

    def _see(self, state: State, since: float) -> None:
        self._seen, self._since = state, since
        self._standstill = standstill(self.container_id, state[1]) if state[0] == "paused" else None

    def _state(self) -> State:
        """What changes whenever the container runs: its state's name first."""
        status, answer = self._ask("GET", f"/containers/{self.container_id}/json")
        if status == 404:
            return ("removed",)
        state = _members(answer).get("State") if status == 200 else None
        if not isinstance(state, dict):
            raise EngineUnreachable(f"the Docker engine does not tell the state of container {self.container_id[:12]}")
        name = "paused" if state.get("Paused") else "running" if state.get("Running") else "stopped"
        return (name, state.get("Pid"), state.get("StartedAt"), state.get("FinishedAt"))

    def _ran(self) -> bool:
        """Whether the container ran meanwhile, if only for a moment: by its control group, or else as the engine
        remembers it."""
        if self._standstill is not None:
            return self._standstill.ran()
        filters = {"container": [self.container_id], "event": list(_RUNS_AGAIN)}
        # Both ends in the past: what happened, and not what is to come.
        query = {"since": f"{self._since:.9f}", "until": f"{time.time():.9f}", "filters": json.dumps(filters)}
        status, answer = self._ask("GET", f"/events?{urlencode(query)}")
        if status != 200:
            raise EngineUnreachable(
                f"the Docker engine does not tell whether container {self.container_id[:12]} ran meanwhile"
            )
        return bool(answer.strip())

    def _ask(self, method: str, target: str) -> tuple[int, bytes]:
        engine = self._engine()
        try:
            return resume.ask(engine, method, target)
        except (OSError, http.client.HTTPException) as caught:
            error = EngineUnreachable(
                f"cannot pause or resume container {self.container_id[:12]}: the Docker engine does not answer"
            )
            error.add_note(f"{engine}: {caught}")
            raise error from caught

    def _known(self, engine: str) -> bool:
        """Whether it has a container with this very ID: no two engines have."""
        try:
            status, answer = resume.ask(engine, "GET", f"/containers/{self.container_id}/json")
        except (OSError, http.client.HTTPException):
            return False
        return status == 200 and _members(answer).get("Id") == self.container_id

    def _engine(self) -> str:
        """The socket of the engine whose data root this is, or which was named and has this container."""
        if self._socket is None:
            notes = []
            for path in self.sockets:
                try:
                    status, answer = resume.ask(path, "GET", "/info")
                except (OSError, http.client.HTTPException) as silent:
                    notes.append(f"{path}: {silent}")
                    continue
                root = _members(answer).get("DockerRootDir") if status == 200 else None
                if isinstance(root, str) and (_same(Path(root), self.data_root) or (self.named and self._known(path))):
                    self._socket = path
                    break
                notes.append(f"{path}: an engine with data root {root!r}")
            else:
                error = EngineUnreachable(
                    f"cannot pause container {self.container_id[:12]}: no Docker engine answers for this data root; "
                    "start it, or name its socket as --store NAME=docker:DATAROOT+SOCKET"
                )
                for note in notes:
                    error.add_note(note)
                raise error
        return self._socket


def _same(told: Path, root: Path) -> bool:
    """Whether the data root that an engine tells is `root`, or the directory for remapped users in it, or around it."""
    pairs = [(told, root)]
    if _REMAPPED.fullmatch(told.name):
        pairs.append((told.parent, root))
    if _REMAPPED.fullmatch(root.name):
        pairs.append((told, root.parent))
    for one, other in pairs:
        try:
            if os.path.samefile(one, other):
                return True
        except (OSError, ValueError):
            continue
    return False


def _members(answer: bytes) -> dict[str, Any]:
    try:
        value = json.loads(answer)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _message(answer: bytes) -> str:
    return str(_members(answer).get("message", ""))[:1000]
