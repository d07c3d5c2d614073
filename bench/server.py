"""Servers as processes of their own: streamer, and nginx for large files."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

from bench import namespace
from bench.client import HOST, status
from bench.errors import BenchError
from bench.peers import Request
from bench.processes import daemon


@dataclass(frozen=True, slots=True)
class Streamer:
    """`streamer serve`, just started."""

    pid: int
    port: int

    def container(self, name: str, **query: str) -> str:
        return _path(f"/v1/containers/{name}/archive", query)

    def image(self, reference: str, **query: str) -> str:
        return _path("/v1/images/archive", {"name": reference, **query})

    def url(self, path: str) -> str:
        return f"http://{HOST}:{self.port}{path}"

    def save(self, path: str, file: Path) -> None:
        """What it answers, as a file."""
        subprocess.run(["curl", "-sSf", "-o", file, self.url(path)], check=True)

    def request(self, name: str, path: str, *options: str) -> Request:
        """What curl asks for; `options` are curl's."""
        return Request(name, self.pid, (*options, self.url(path)))


@contextmanager
def streamer(state: Path, log: Path, stores: Sequence[str], **environment: str) -> Iterator[Streamer]:
    """The service on a free port of loopback, with these stores."""
    program = Path(sys.executable).parent / "streamer"
    command: list[str | Path] = [program, "serve", "--state", state, "--listen", f"{HOST}:0"]
    for store in stores:
        command += ["--store", store]
    settings = {"STREAMER_DISCOVER": "no", "STREAMER_LOG_FORMAT": "json", **environment}
    with daemon("streamer", command, log, lambda: _listening(log), settings) as (pid, port):
        yield Streamer(pid, port)


def _listening(log: Path) -> int | None:
    for line in log.read_text(errors="replace").splitlines():
        if '"serving"' in line:
            return int(json.loads(line)["addresses"][0].rpartition(":")[2])
    return None


def _path(path: str, query: dict[str, str]) -> str:
    return f"{path}?{urlencode(query)}" if query else path


@dataclass(frozen=True, slots=True)
class Nginx:
    pid: int
    port: int

    def request(self, name: str, files: Sequence[str]) -> Request:
        return Request(name, self.pid, tuple(f"http://{HOST}:{self.port}/{file}" for file in files))


NGINX_MISSING = "nginx is not installed (apt-get install nginx-light)"


def nginx_program() -> str | None:
    return shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


def nginx_version() -> str | None:
    program = nginx_program()
    if program is None:
        return None
    said = subprocess.run([program, "-v"], capture_output=True, text=True, check=False).stderr
    found = re.search(r"nginx/(\S+)", said)
    return found[1] if found else said.strip()


@contextmanager
def nginx(directory: Path, log: Path) -> Iterator[Nginx]:
    """nginx with sendfile, one worker for each core, serving a directory as it is."""
    program = nginx_program()
    if program is None:
        raise BenchError(NGINX_MISSING)
    place = namespace.HOME / "nginx"
    place.mkdir(exist_ok=True)
    with socket.create_server((HOST, 0)) as free:
        port = free.getsockname()[1]
    temporary = "\n".join(
        f"  {kind}_temp_path {place}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    configuration = place / "nginx.conf"
    configuration.write_text(
        f"daemon off;\nuser root;\nworker_processes auto;\npid {place}/pid;\nerror_log stderr;\n"
        f"events {{ worker_connections 256; }}\n"
        f"http {{\n  access_log off;\n  sendfile on;\n  tcp_nopush on;\n  default_type application/octet-stream;\n"
        f"{temporary}\n"
        f"  server {{ listen {HOST}:{port}; root {directory}; location = /tiny {{ return 200 ok; }} }}\n}}\n"
    )
    command: list[str | Path] = [program, "-p", place, "-c", configuration, "-e", "stderr"]
    with daemon("nginx", command, log, lambda: _answers(port)) as (pid, _):
        yield Nginx(pid, port)


def _answers(port: int) -> bool | None:
    try:
        return status(port, "/tiny")[0] == 200 or None
    except OSError:
        return None
