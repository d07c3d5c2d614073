"""Docker's Engine API over a unix socket; as a program: `resume.py SOCKET CONTAINER` resumes a paused container.

Nothing but the standard library, and nothing of this package: the program runs when a process was killed, from
wherever this file lies.
"""

from __future__ import annotations

import http.client
import socket
import sys

DEADLINE = 10.0
"""Seconds of silence after which the engine is taken for one that does not answer."""

ANSWER_MAX = 4 << 20


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str, deadline: float) -> None:
        super().__init__("localhost", timeout=deadline)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def ask(path: str, method: str, target: str, deadline: float = DEADLINE) -> tuple[int, bytes]:
    """Status and body. OSError or HTTPException if there is no engine at `path`, or it does not answer in time.

    Without a version in `target` the engine takes its own.
    """
    connection = _Connection(path, deadline)
    try:
        connection.request(method, target)
        answer = connection.getresponse()
        body = answer.read(ANSWER_MAX + 1)
        if len(body) > ANSWER_MAX:
            raise http.client.HTTPException(f"an answer of more than {ANSWER_MAX} bytes")
        return answer.status, body
    finally:
        connection.close()


def resume(path: str, container: str) -> bool:
    """Whether the container is not paused now."""
    status, _ = ask(path, "POST", f"/containers/{container}/unpause")
    # 404: removed. 409 and 500 (older engines): not paused, or not running.
    return status in (204, 404) or b'"Paused":true' not in ask(path, "GET", f"/containers/{container}/json")[1]


if __name__ == "__main__":
    try:
        sys.exit(0 if resume(sys.argv[1], sys.argv[2]) else 1)
    except (OSError, http.client.HTTPException):
        sys.exit(1)
