"""One request, one whole answer, on a connection of its own."""

from __future__ import annotations

import json
from typing import Any

from support.clients import Answer, Client


def ask(port: int, target: str, method: str = "GET", headers: str = "", body: bytes = b"") -> Answer:
    """The whole answer; `headers` are lines that end in CRLF. A body goes with its Content-Length."""
    with Client(port) as client:
        length = f"Content-Length: {len(body)}\r\n" if body or method == "POST" else ""
        client.request(target, method, length + headers)
        if body:
            client.send(body)
        return received(client, method)


def received(client: Client, method: str = "GET") -> Answer:
    if method == "HEAD":
        answer = client.head()
        answer.complete = True
        return answer
    return client.answer()


def problem(answer: Answer) -> dict[str, Any]:
    """The members of an RFC 9457 problem, which must agree with the answer that carries it."""
    assert answer.complete
    assert answer.headers["content-type"] == "application/problem+json"
    members: dict[str, Any] = json.loads(answer.body)
    assert members["status"] == answer.status
    assert {"type", "title", "code", "detail"} <= members.keys(), members
    assert "Traceback" not in members["detail"]
    return members
