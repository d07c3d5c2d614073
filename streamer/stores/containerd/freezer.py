"""Pausing a container through containerd."""

from __future__ import annotations

import os
import sys
import time

from streamer.errors import Conflict, EngineUnreachable, NotFound, SourceFailed
from streamer.stores.containerd.api.task_pb2 import PAUSED, PAUSING, RUNNING, UNKNOWN, Process, Status
from streamer.stores.containerd.api.tasks_pb2 import GetRequest, PauseTaskRequest, ResumeTaskRequest
from streamer.stores.containerd.client import Client
from streamer.stores.containerd.methods import PAUSE_TASK, RESUME_TASK, TASK
from streamer.stores.standstill import Standstill, standstill

PAUSING_MAX = 5.0
"""Seconds that somebody else's pause may take to be done."""


class ContainerdFreezer:
    """See `stores.base.Freezer`.

    It remembers how the container stood still when it was first seen so; `still` compares with that. containerd itself
    remembers nothing: one that somebody resumed and paused again is noticed by its control group only, and not at all
    where that cannot be seen (see `stores.standstill`).
    """

    def __init__(self, client: Client, socket: str, namespace: str, container: str) -> None:
        self._client = client
        self._socket = os.path.abspath(socket)
        self._namespace = namespace
        self._container = container
        self._seen: Process | None = None
        self._standstill: Standstill | None = None

    def pause(self) -> bool:
        """See Freezer. Conflict where containerd refuses, or where somebody else's pause is never done."""
        if self._remember():
            return False
        try:
            self._client.call(PAUSE_TASK, PauseTaskRequest(container_id=self._container), patient=True)
        except EngineUnreachable:
            self.resume()  # it may have been paused all the same
            raise
        except (NotFound, Conflict, SourceFailed) as error:
            if self._remember():
                return False  # it ended, or somebody else was faster
            raise Conflict(f"{self._client.who} does not pause container {self._container}") from error
        self._see(self._settled())
        return True

    def resume(self) -> None:
        if self._status() not in (PAUSED, PAUSING):
            return
        try:
            self._client.call(RESUME_TASK, ResumeTaskRequest(container_id=self._container), patient=True)
        except (NotFound, Conflict, SourceFailed) as error:
            if self._status() in (PAUSED, PAUSING):
                raise Conflict(f"{self._client.who} does not resume container {self._container}") from error

    def still(self) -> bool:
        """See Freezer. Once it stood still: whether it did so ever since; one that was ended, or started and ended
        again, has run meanwhile."""
        if self._seen is None:
            return self._remember()
        now = self._process()
        if now.status in (RUNNING, PAUSING) or (now.pid, now.status) != (self._seen.pid, self._seen.status):
            return False
        return self._standstill is None or not self._standstill.ran()

    @property
    def resume_command(self) -> tuple[str, ...]:
        module = "streamer.stores.containerd.resume"
        # -P: nothing is imported from where the server happens to have been started.
        return sys.executable, "-P", "-m", module, self._socket, self._namespace, self._container

    def _remember(self) -> bool:
        """Whether it stands still, and how."""
        process = self._settled()
        if process.status == RUNNING:
            return False
        self._see(process)
        return True

    def _see(self, process: Process) -> None:
        self._seen = process
        self._standstill = standstill(self._container, process.pid) if process.status == PAUSED else None

    def _settled(self) -> Process:
        """In any state but PAUSING, in which processes still run. Conflict if it stays so."""
        deadline = time.monotonic() + PAUSING_MAX
        while (process := self._process()).status == PAUSING:
            if time.monotonic() > deadline:
                raise Conflict(
                    f"cannot pause container {self._container}: somebody else is pausing it, and that does not end"
                )
            time.sleep(0.01)
        return process

    def _status(self) -> Status:
        return self._process().status

    def _process(self) -> Process:
        """Without a task its status is UNKNOWN: nothing of the container runs."""
        try:
            return self._client.call(TASK, GetRequest(container_id=self._container)).process
        except NotFound:
            return Process(status=UNKNOWN)
