"""A byte-exact golden for `Profile.DOCKER`: the real go-archive writer, as the docker command runs it for `docker cp`.

The command is pointed at a tiny engine on a unix socket that answers just enough for one upload. Nothing leaves the
machine, no daemon is needed.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import tempfile
from http.server import BaseHTTPRequestHandler
from socketserver import UnixStreamServer
from threading import Thread
from typing import BinaryIO

import pytest

OLDEST = 24
"""Docker 23 and before put the file's type into the mode field, and have no `cp -q`."""


def command() -> str | None:
    """A docker program that is current enough, wherever on PATH it lies; None if there is none."""
    for folder in os.environ.get("PATH", os.defpath).split(os.pathsep):
        found = shutil.which("docker", path=folder)
        if found is None:
            continue
        told = subprocess.run([found, "--version"], capture_output=True, text=True, check=False).stdout
        version = re.search(r"version (\d+)", told)
        if version is not None and int(version[1]) >= OLDEST:
            return found
    return None


DOCKER = command()
needed = pytest.mark.skipif(DOCKER is None, reason=f"needs a docker program of version {OLDEST} or later (its `cp`)")


def golden(directory: bytes | str, *, contents: bool = True) -> bytes:
    """The tar that `docker cp -a` sends: the base entry first, then everything below it in go-archive's order.

    With `contents` (`DIRECTORY/.` was copied) the base is `./` and names start with it, else with the directory's name.
    """
    if DOCKER is None:
        pytest.skip(f"needs a docker program of version {OLDEST} or later (its `cp`)")
    source = os.path.join(os.fsdecode(directory), ".") if contents else os.fsdecode(directory)
    with tempfile.TemporaryDirectory(prefix="docker-cp-") as scratch:
        address = os.path.join(scratch, "s")
        with _Engine(address) as engine:
            thread = Thread(target=engine.serve_forever, kwargs={"poll_interval": 0.05})
            thread.start()
            try:
                subprocess.run(
                    [DOCKER, "cp", "-a", "-q", source, "c:/x"],
                    env={"DOCKER_HOST": f"unix://{address}", "DOCKER_CONFIG": scratch, "PATH": os.defpath},
                    check=True,
                    capture_output=True,
                    timeout=120,
                )
            finally:
                engine.shutdown()
                thread.join()
        if engine.uploaded is None:
            raise AssertionError("docker cp sent no archive")
        return engine.uploaded


class _Engine(UnixStreamServer):
    uploaded: bytes | None = None

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
        self.send_response(200)
        self.send_header("Api-Version", "1.51")
        self.send_header("Ostype", "linux")
        if not self.path.startswith("/_ping"):
            mode = 0o755 | 1 << 31
            stat = {"name": "x", "size": 0, "mode": mode, "mtime": "2020-01-01T00:00:00Z", "linkTarget": ""}
            self.send_header(
                "X-Docker-Container-Path-Stat", base64.b64encode(json.dumps(stat).encode()).decode("ascii")
            )
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_PUT(self) -> None:
        self.server.uploaded = _chunked(self.rfile)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()


def _chunked(stream: BinaryIO) -> bytes:
    parts = []
    while size := int(stream.readline().split(b";")[0], 16):
        parts.append(stream.read(size))
        stream.readline()
    stream.readline()
    return b"".join(parts)
