"""A byte-exact golden for build contexts: what the real docker command, with its classic builder, posts for them.

The command is pointed at a tiny engine on a unix socket that keeps what it is sent. Nothing leaves the machine, no
daemon is needed.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingMixIn, UnixStreamServer
from threading import Thread
from types import TracebackType
from typing import BinaryIO

from support.docker_cp import DOCKER, needed

__all__ = ["Builder", "needed"]


class Builder:
    """One engine for several builds; `sent` is the body of the last one, None where the command sent none."""

    def __init__(self) -> None:
        self._scratch = tempfile.TemporaryDirectory(prefix="docker-build-")
        self._address = os.path.join(self._scratch.name, "s")
        self._engine = _Engine(self._address)
        self._thread = Thread(target=self._engine.serve_forever, kwargs={"poll_interval": 0.05})

    def __enter__(self) -> Builder:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._engine.shutdown()
        self._engine.server_close()
        self._thread.join()
        self._scratch.cleanup()

    def sent(self, *arguments: str | bytes, stdin: bytes = b"") -> bytes:
        """What `docker build ARGUMENTS…` posts. RuntimeError with its own words where it refuses."""
        assert DOCKER is not None
        self._engine.posted = None
        done = subprocess.run(
            [DOCKER, "build", "-q", *arguments],
            env={
                "DOCKER_HOST": f"unix://{self._address}",
                "DOCKER_CONFIG": self._scratch.name,
                "DOCKER_BUILDKIT": "0",
                "PATH": os.defpath,
            },
            input=stdin,
            capture_output=True,
            timeout=120,
        )
        if self._engine.posted is None:
            raise RuntimeError(done.stderr.decode("utf-8", "replace"))
        return self._engine.posted


class _Engine(ThreadingMixIn, UnixStreamServer):
    posted: bytes | None = None
    daemon_threads = True

    def __init__(self, address: str) -> None:
        super().__init__(address, _Handler)

    def get_request(self):  # type: ignore[no-untyped-def]
        request, _ = super().get_request()
        return request, ("", 0)  # the handler wants a (host, port)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Engine

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(b"")

    def do_GET(self) -> None:
        self._answer(b"{}")

    def do_POST(self) -> None:
        if "/build?" not in self.path:
            self._answer(b"{}")
            return
        self.server.posted = _chunked(self.rfile)
        self._answer(b'{"stream":"sha256:0"}\r\n')

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Api-Version", "1.51")
        self.send_header("Ostype", "linux")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _chunked(stream: BinaryIO) -> bytes:
    parts = []
    while size := int(stream.readline().split(b";")[0], 16):
        parts.append(stream.read(size))
        stream.readline()
    stream.readline()
    return b"".join(parts)
