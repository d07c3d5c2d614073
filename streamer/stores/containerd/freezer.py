"""Pausing a container through containerd."""

from __future__ import annotations

import os
import sys

from streamer.errors import Conflict, EngineUnreachable, NotFound, SourceFailed
from streamer.stores.containerd.api.task_pb2 import PAUSED, PAUSING, RUNNING, UNKNOWN, Process, Status
from streamer.stores.containerd.api.tasks_pb2 import GetRequest, PauseTaskRequest, ResumeTaskRequest
from streamer.stores.containerd.client import Client
from streamer.stores.containerd.methods import PAUSE_TASK, RESUME_TASK, TASK


class ContainerdFreezer:
    """See `stores.base.Freezer`."""

    def __init__(self, client: Client, socket: str, namespace: str, container: str) -> None:
        self._client = client
        self._socket = os.path.abspath(socket)
        self._namespace = namespace
        self._container = container
        self._seen: tuple[int, Status] | None = None
        """Process and status of the container when it first stood still."""

    def pause(self) -> bool:
        if self._status() != RUNNING:
            return False
        try:
            self._client.call(PAUSE_TASK, PauseTaskRequest(container_id=self._container), patient=True)
        except EngineUnreachable:
            self.resume()  # it may have been paused all the same
            raise
        except (NotFound, Conflict, SourceFailed) as error:
            if self._status() != RUNNING:
                return False  # it ended, or somebody else was faster
            raise Conflict(f"{self._client.who} does not pause container {self._container}") from error
        self._seen = None
        self.still()
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
        """See Freezer. Once it stood still: whether it does so in the same way; one that was ended, or started and
        ended again, has run meanwhile."""
        process = self._process()
        if process.status in (RUNNING, PAUSING):
            return False
        now = process.pid, process.status
        if self._seen is None:
            self._seen = now
        return now == self._seen

    @property
    def resume_command(self) -> tuple[str, ...]:
        module = "streamer.stores.containerd.resume"
        return sys.executable, "-m", module, self._socket, self._namespace, self._container

    def _status(self) -> Status:
        return self._process().status

    def _process(self) -> Process:
        """Without a task its status is UNKNOWN: nothing of the container runs."""
        try:
            return self._client.call(TASK, GetRequest(container_id=self._container)).process
        except NotFound:
            return Process(status=UNKNOWN)
