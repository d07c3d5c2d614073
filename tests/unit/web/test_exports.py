"""`/v1/exports` in this process, into files: what is asked, what is answered, what is refused."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import sites
from support.exporting import asked, ended, submitted
from support.sites import Site

SOURCE = {"kind": "image", "ref": "two"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("destination")


@pytest.fixture(scope="module")
def exporting(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Iterator[Site]:
    root = tmp_path_factory.mktemp("exporting")
    with sites.site(root / "state", jobs=root / "jobs", directories=[folder]) as opened:
        yield opened


def test_a_job_is_made_and_done(exporting: Site, folder: Path) -> None:
    id = submitted(exporting.port, f"file://{folder}/a.tar", ref="two")
    job = ended(exporting.port, id)
    expected = exporting.get("/v1/images/two/archive")
    assert (folder / "a.tar").read_bytes() == expected
    assert job == {
        **job,
        "state": "done",
        "source": {"kind": "image", "refs": ["two"], "store": None},
        "destination": f"file://{folder}/a.tar",
        "done": len(expected),
        "total": len(expected),
        "rate": None,
        "error": None,
    }
    assert job["created"] < job["ended"]
    end = time.monotonic() + 60  # it is done before the queue has seen to the rest
    while 'streamer_jobs{state="running"} 0.0' not in (text := exporting.get("/metrics").decode()):
        assert time.monotonic() < end, text
    assert 'streamer_jobs{state="queued"} 0.0' in text
    counted = re.search(r'^streamer_jobs_ended_total\{state="done"\} ([0-9.]+)$', text, re.M)
    assert counted is not None and float(counted[1]) >= 1
    assert re.search(r"^streamer_job_bytes_total [1-9]", text, re.M)


@pytest.mark.root
@pytest.mark.parametrize(
    ("kind", "ref", "options", "same_as"),
    [
        ("container", "box", {"path": "etc"}, "/v1/containers/box/archive?path=etc"),
        ("diff", "box", {"profile": "full"}, "/v1/containers/box/diff?profile=full"),
        ("rootfs", "two", {"compression": "zstd", "mtime": 5}, "/v1/images/two/rootfs?compression=zstd&mtime=5"),
        ("image", "two", {"format": "docker-legacy"}, "/v1/images/two/archive?format=docker-legacy"),
    ],
)  # fmt: skip
def test_options_are_those_of_archives(
    exporting: Site, folder: Path, kind: str, ref: str, options: dict[str, object], same_as: str
) -> None:
    job = ended(exporting.port, submitted(exporting.port, f"file://{folder}/{kind}", kind, ref, **options))
    assert job["state"] == "done", job
    assert (folder / kind).read_bytes() == exporting.get(same_as)


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        ({"colour": "red"}, 400, "colour: Extra inputs are not permitted"),
        ({"options": {"colour": "red"}}, 400, "options.colour: Extra inputs"),
        ({"options": {"mtime": -1}}, 400, "options.mtime: "),
        ({"options": {"path": "a\0b"}}, 400, "options.path holds a NUL"),
        ({"options": {"pause": True}}, 400, "pause is for containers"),
        ({"source": {"kind": "volume", "ref": "x"}}, 400, "source.kind: Input should be"),
        ({"source": {"kind": "image"}}, 400, "give either ref or refs"),
        ({"source": {"kind": "image", "ref": "two", "refs": ["two"]}}, 400, "give either ref or refs"),
        ({"source": {"kind": "rootfs", "refs": ["two", "two"]}}, 400, "cannot export 2 things as one rootfs"),
        ({"source": {"kind": "image", "ref": "nothing:1"}}, 404, "nothing:1"),
        ({"source": {"kind": "image", "ref": "two", "store": "other"}}, 400, "no store 'other'"),
        ({"destination": "ftp://x/y"}, 400, "possible are s3://"),
        ({"destination": "/etc/passwd"}, 400, "is none of s3://"),
        ({"destination": "memory://x/y"}, 400, "is none of s3://"),
        ({"destination": "file:///etc/passwd"}, 403, "export_directories"),
        ({"destination": "s3://bucket/"}, 400, "the key is missing"),
        ({"destination": 5}, 400, "destination: Input should be a valid string"),
    ],
)
def test_what_is_wrong_is_said_at_once(exporting: Site, change: dict[str, Any], status: int, message: str) -> None:
    body = {"source": SOURCE, "destination": "s3://exports/x.tar", **change}
    answer = asked(exporting.port, "POST", "/v1/exports", body)
    assert (answer[0], answer[1]["status"]) == (status, status), answer
    assert message in answer[1]["detail"], answer


@pytest.mark.parametrize(
    ("headers", "body", "status", "message"),
    [
        ("Content-Type: text/plain", b"{}", 400, "must be application/json"),
        ("Content-Type: application/json", b"{", 400, "the body: "),
        ("Content-Type: application/json", b"", 400, "the body: "),
        ("Content-Type: application/json", b"[]", 400, "the body: "),
        ("Content-Type: application/json", b"[" * 100_000, 400, "the body: "),
        ("Content-Type: application/json", b" " * 300_000, 413, "longer than 262144 bytes"),
        ("Content-Type: application/json\r\nIdempotency-Key: " + "x" * 256, b"{}", 400, "Idempotency-Key"),
        ("Content-Type: application/json\r\nOrigin: http://elsewhere.example", b"{}", 403, "may not change"),
    ],
)
def test_bodies_that_are_none(exporting: Site, headers: str, body: bytes, status: int, message: str) -> None:
    answer = exporting.ask("/v1/exports", "POST", headers + "\r\n", body)
    assert answer.status == status, answer
    assert message in json.loads(answer.body)["detail"]


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_no_such_job(exporting: Site, method: str) -> None:
    assert asked(exporting.port, method, "/v1/exports/nothing")[0] == 404


def test_a_key_is_one_job(exporting: Site, folder: Path) -> None:
    body = {"source": SOURCE, "destination": f"file://{folder}/once.tar"}
    first = asked(exporting.port, "POST", "/v1/exports", body, Idempotency_Key="once")
    again = asked(exporting.port, "POST", "/v1/exports", body, Idempotency_Key="once")
    assert (first[0], again[0]) == (201, 200)
    assert first[2]["location"] == again[2]["location"]
    other = {**body, "destination": f"file://{folder}/twice.tar"}
    assert asked(exporting.port, "POST", "/v1/exports", other, Idempotency_Key="once")[0] == 409


def test_events_end_with_the_job(exporting: Site, folder: Path) -> None:
    id = submitted(exporting.port, f"file://{folder}/events.tar", ref="two")
    answer = exporting.ask(f"/v1/exports/{id}/events")
    assert answer.headers["content-type"] == "text/event-stream"
    assert answer.complete
    *before, last, rest = answer.body.decode().split("\n\n")
    assert rest == ""
    assert all(event.startswith("event: progress\ndata: {") for event in before)
    assert last.startswith("event: end\ndata: {")
    assert json.loads(last.partition("data: ")[2])["state"] == "done"


def test_without_a_place_for_them_there_are_no_jobs(site: Site) -> None:
    status, problem, _ = asked(site.port, "GET", "/v1/exports")
    assert (status, problem["code"]) == (422, "unsupported")
