"""A tiny request every few milliseconds, from a process of its own: how long an answer takes while the server is busy.

    python -m bench.probe PORT PATH INTERVAL      until its standard input is closed; then one line of JSON

Requests are due at fixed times. While one waits for its answer, the next ones become due, are sent late and count from
when they were due: a server that is blocked for a second is told of by all that fell into that second, not by one slow
answer. How late the process itself woke up for a request is told as well: the machine's share, not the server's.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time

from bench.client import HOST
from bench.stats import percentile


def main(port: int, path: str, interval: float) -> None:
    request = f"GET {path} HTTP/1.1\r\nHost: {HOST}:{port}\r\n\r\n".encode()
    delays, late = [], []
    with socket.create_connection((HOST, port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.settimeout(120)
        due = time.perf_counter()
        while not select.select([sys.stdin], [], [], 0)[0]:
            due += interval
            rest = due - time.perf_counter()
            if rest > 0:
                time.sleep(rest)
                late.append(time.perf_counter() - due)
            connection.sendall(request)
            _answer(connection)
            delays.append(time.perf_counter() - due)
    print(json.dumps({"delay": summary(delays), "late": summary(late)}))


def summary(seconds: list[float]) -> dict[str, float]:
    """Milliseconds."""
    if not seconds:
        return {"count": 0, "median": 0.0, "p99": 0.0, "max": 0.0}
    return {
        "count": len(seconds),
        "median": percentile(seconds, 0.5) * 1000,
        "p99": percentile(seconds, 0.99) * 1000,
        "max": max(seconds) * 1000,
    }


def _answer(connection: socket.socket) -> None:
    """Reads one answer that has a Content-Length."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += _some(connection)
    head, _, body = data.partition(b"\r\n\r\n")
    lengths = [int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    rest = (lengths[0] if lengths else 0) - len(body)
    while rest > 0:
        rest -= len(_some(connection))


def _some(connection: socket.socket) -> bytes:
    data = connection.recv(65536)
    if not data:
        raise SystemExit("the server closed the probe's connection")
    return data


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], float(sys.argv[3]))
