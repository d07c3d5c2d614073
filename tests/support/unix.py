"""HTTP over a unix socket, for tests that want nothing but a question and its answer."""

from __future__ import annotations

import http.client
import socket


class Unix(http.client.HTTPConnection):
    """A connection to the socket at `path`."""

    def __init__(self, path: str, timeout: float = 60) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)
