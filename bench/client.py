"""Clients: curl, and sockets of our own where curl does not tell enough or behaves too well."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from bench.errors import BenchError

HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    first_byte: float
    """Seconds, from curl's start to the first byte of the header."""
    size: int
    """Bytes of all bodies."""
    length: int | None
    """What Content-Length promised, of the last answer."""


def curls(commands: Sequence[Sequence[str]]) -> list[Answer]:
    """What became of requests made at once, by a curl for each of these arguments. BenchError for an error status or a
    body that broke."""
    with transfers(commands) as running:
        return [finished(process) for process in running]


@contextmanager
def transfers(commands: Sequence[Sequence[str]]) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Curls that run at once, into /dev/null; what still runs at the end of the block is ended."""
    written = "%{stderr}%{http_code} %{time_starttransfer} %{size_download} %header{content-length}\\n"
    started: list[subprocess.Popen[bytes]] = []
    try:
        for arguments in commands:
            command = ["curl", "-sS", "--fail", "-w", written]
            for argument in arguments:
                command += ["-o", "/dev/null"] * argument.startswith("http") + [argument]
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
            )
            started.append(process)
        yield started
    finally:
        for process in started:
            if process.poll() is None:
                process.kill()
            process.wait()
            if process.stderr:
                process.stderr.close()


def finished(process: subprocess.Popen[bytes]) -> Answer:
    """Waits for one of `transfers`. BenchError for an error status or a body that broke."""
    said = process.communicate()[1].decode(errors="replace")
    if process.returncode != 0:
        raise BenchError(f"curl ended with exit code {process.returncode}: {said.strip()}")
    return parse_answers(said)


def parse_answers(text: str) -> Answer:
    """What curl wrote for each URL, as one answer: sizes added up, the first one's time."""
    lines = [line.split() for line in text.splitlines() if line]
    if not lines:
        raise BenchError("curl said nothing about its transfer")
    last = lines[-1]
    length = int(last[3]) if len(last) > 3 and last[3].isdigit() else None
    return Answer(int(last[0]), float(lines[0][1]), sum(int(line[2]) for line in lines), length)


def status(port: int, path: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    """Status, header (names in lower case) and body of a small answer."""
    with _asked(port, path, method, close=True) as connection:
        data = b""
        while chunk := connection.recv(65536):
            data += chunk
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    return int(lines[0].split()[1]), headers, body


def first_byte(port: int, path: str) -> tuple[float, float]:
    """Seconds from before the connection to the first byte of the header, and to the first byte of the body (not of a
    chunk's size). The rest is not wanted: the connection is closed then."""
    start = time.perf_counter()
    with _asked(port, path) as connection:
        data = connection.recv(65536)
        header = time.perf_counter() - start
        while data and not has_body(data):
            chunk = connection.recv(65536)
            if not chunk:
                break
            data += chunk
        body = time.perf_counter() - start
    if not data.startswith(b"HTTP/1.1 200") or not has_body(data):
        raise BenchError(f"no body for {path}: {data[:200]!r}")
    return header, body


def starttransfer(url: str) -> float:
    """Seconds to the first byte as curl tells it; it is left alone with its transfer after the first byte."""
    command = ["curl", "-sN", "-w", "%{stderr}%{time_starttransfer}", url]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.read(1)
        process.stdout.close()
        return float(process.stderr.read())


def has_body(data: bytes) -> bool:
    """Whether the beginning of an answer has at least one byte of the body itself."""
    head, end, rest = data.partition(b"\r\n\r\n")
    if not end:
        return False
    if b"transfer-encoding: chunked" in head.lower():
        rest = rest.partition(b"\r\n")[2]
    return bool(rest)


@contextmanager
def stalled(port: int, path: str, count: int) -> Iterator[None]:
    """So many clients that ask and then never read."""
    with ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(_asked(port, path, room=4096))
        yield


def gauge(port: int, name: str) -> float | None:
    """One of the server's own metrics."""
    for line in status(port, "/metrics")[2].decode().splitlines():
        if line.startswith(f"{name} "):
            return float(line.split()[1])
    return None


def quiet(port: int, patience: float = 30.0) -> None:
    """Returns once no export is open: what a client left early is released by then."""
    deadline = time.monotonic() + patience
    while gauge(port, "streamer_open_exports"):
        if time.monotonic() > deadline:
            raise BenchError("the server still has exports open that no client wants")
        time.sleep(0.01)


@contextmanager
def _asked(
    port: int, path: str, method: str = "GET", *, close: bool = False, room: int | None = None
) -> Iterator[socket.socket]:
    connection = socket.socket()
    with connection:
        connection.settimeout(600)
        if room is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)  # before the window is agreed on
        connection.connect((HOST, port))
        ending = "Connection: close\r\n" if close else ""
        connection.sendall(f"{method} {path} HTTP/1.1\r\nHost: {HOST}:{port}\r\n{ending}\r\n".encode())
        yield connection
