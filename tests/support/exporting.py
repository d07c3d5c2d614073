"""Export jobs over HTTP, against a served process."""

from __future__ import annotations

import http.client
import json
import time
from typing import Any


def asked(port: int, method: str, path: str, body: object = None, **headers: str) -> tuple[int, Any, dict[str, str]]:
    """Status, JSON and headers (in lower case) of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        data = None if body is None else json.dumps(body)
        extra = {"Content-Type": "application/json"} if data is not None else {}
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, data, {**extra, **named})
        answer = connection.getresponse()
        text = answer.read()
        return answer.status, json.loads(text) if text else None, {k.lower(): v for k, v in answer.getheaders()}
    finally:
        connection.close()


def submitted(port: int, destination: str, kind: str = "image", ref: str = "big:1", **options: object) -> str:
    """The ID of a new job."""
    body = {"source": {"kind": kind, "ref": ref}, "destination": destination, "options": options}
    status, job, headers = asked(port, "POST", "/v1/exports", body)
    assert status == 201, job
    assert headers["location"] == f"/v1/exports/{job['id']}"
    return str(job["id"])


def ended(port: int, id: str, limit: float = 120, **headers: str) -> Any:
    """The job, once it ended."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        _, job, _ = asked(port, "GET", f"/v1/exports/{id}", **headers)
        if job["state"] in ("done", "failed", "cancelled"):
            return job
        time.sleep(0.05)
    raise AssertionError(f"the job did not end in {limit} s: {job}")
