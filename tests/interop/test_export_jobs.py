"""Export jobs of a served process, into a real server: submitted, followed, cancelled, drained, killed."""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import json
import os
import random
import signal
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support import storage
from support.clients import Client
from support.commandline import run
from support.exporting import asked, ended, submitted
from support.faults import gated
from support.processes import Serving
from support.storage import S3Kept

SIZE = 40 << 20
PART = 5 << 20
KILLS = int(os.environ.get("STREAMER_TEST_KILLS", "8"))


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Kept]:
    with storage.seaweedfs(tmp_path_factory.mktemp("weed")) as opened, pytest.MonkeyPatch.context() as patch:
        for name, value in opened.environment.items():
            patch.setenv(name, value)
        yield opened


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one image of one layer of 40 MiB."""
    folder = tmp_path_factory.mktemp("state")
    (folder / "big").write_bytes(random.Random(3).randbytes(SIZE))
    with tarfile.open(folder / "rootfs.tar", "w") as made:
        made.add(folder / "big", "big")
    assert run("--state", folder / "state", "import", folder / "rootfs.tar", "--name", "big:1").returncode == 0
    return folder / "state"


@pytest.fixture(scope="module")
def expected(state: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("expected") / "big.tar"
    assert run("--state", state, "export", "image", "big:1", "-o", path).returncode == 0
    return path.read_bytes()


@pytest.fixture
def serving(state: Path) -> Iterator[Callable[..., Serving]]:
    opened: list[Serving] = []

    def make(**environment: str) -> Serving:
        opened.append(Serving(state, **{"STREAMER_PART_SIZE": "5", **environment}))
        return opened[-1]

    yield make
    for each in opened:
        each.__exit__()


def kept_bytes(kept: S3Kept, key: str) -> bytes | None:
    return asyncio.run(kept.read(key))


def left(kept: S3Kept) -> list[str]:
    return asyncio.run(kept.left())


def test_a_job_from_submission_to_its_end(
    kept: S3Kept, expected: bytes, serving: Callable[..., Serving], tmp_path: Path
) -> None:
    port = serving().port
    body = {"source": {"kind": "image", "ref": "big:1"}, "destination": f"s3://{kept.bucket}/jobs/a.tar"}
    status, job, headers = asked(port, "POST", "/v1/exports", body, Idempotency_Key="once")
    assert (status, headers["location"]) == (201, f"/v1/exports/{job['id']}")
    status, again, _ = asked(port, "POST", "/v1/exports", body, Idempotency_Key="once")
    assert (status, again["id"]) == (200, job["id"])
    other = {**body, "destination": f"s3://{kept.bucket}/jobs/b.tar"}
    assert asked(port, "POST", "/v1/exports", other, Idempotency_Key="once")[0] == 409

    job = ended(port, job["id"])
    digest = "sha256:" + hashlib.sha256(expected).hexdigest()
    assert (job["state"], job["done"], job["total"], job["digest"]) == ("done", len(expected), len(expected), digest)
    assert job["error"] is None
    assert job["attempts"] == 1
    assert kept_bytes(kept, "jobs/a.tar") == expected

    for query, found in (
        ("", True),
        ("?state=done", True),
        ("?state=queued&state=running", False),
        (f"?destination=s3://{kept.bucket}/jobs/", True),
        ("?destination=gs://", False),
    ):
        _, jobs, _ = asked(port, "GET", f"/v1/exports{query}")
        assert (job["id"] in [each["id"] for each in jobs]) == found, query
    # One that ended stays as it is.
    assert asked(port, "DELETE", f"/v1/exports/{job['id']}")[1]["state"] == "done"


def test_a_job_that_fails_says_why(kept: S3Kept, serving: Callable[..., Serving]) -> None:
    port = serving().port
    job = ended(port, submitted(port, "s3://missing/a.tar"))
    assert (job["state"], job["error"]["code"]) == ("failed", "not_found")
    assert "there is no bucket 'missing'" in job["error"]["detail"]


def test_a_file_below_an_allowed_directory(expected: bytes, serving: Callable[..., Serving], tmp_path: Path) -> None:
    (tmp_path / "allowed" / "in").mkdir(parents=True)
    (tmp_path / "allowed" / "out").symlink_to(tmp_path)
    port = serving(STREAMER_EXPORT_DIRECTORIES=str(tmp_path / "allowed")).port
    job = ended(port, submitted(port, f"file://{tmp_path}/allowed/in/a.tar"))
    assert job["state"] == "done", job
    assert (tmp_path / "allowed" / "in" / "a.tar").read_bytes() == expected
    for place in ("other/a.tar", "allowed/../a.tar", "allowed/out/a.tar"):
        body = {"source": {"kind": "image", "ref": "big:1"}, "destination": f"file://{tmp_path}/{place}"}
        assert asked(port, "POST", "/v1/exports", body)[0] in (403, 404), place


def test_events_until_the_end(kept: S3Kept, serving: Callable[..., Serving]) -> None:
    port = serving().port
    id = submitted(port, f"s3://{kept.bucket}/events.tar")
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", f"/v1/exports/{id}/events")
    answer = connection.getresponse()
    assert answer.getheader("Content-Type") == "text/event-stream"
    events = [event.split("\n") for event in answer.read().decode().split("\n\n") if event]
    connection.close()
    assert [event[0] for event in events[:-1]] == ["event: progress"] * (len(events) - 1)
    assert events[-1][0] == "event: end"
    last = json.loads(events[-1][1].removeprefix("data: "))
    assert (last["id"], last["state"]) == (id, "done")


def test_cancelled_it_leaves_nothing(kept: S3Kept, serving: Callable[..., Serving]) -> None:
    with gated(kept.url, 2) as gate:
        port = serving(STREAMER_MAX_JOBS="1", AWS_ENDPOINT_URL=gate.way.url).port
        first, second = (submitted(port, f"s3://{kept.bucket}/cancelled-{n}.tar") for n in range(2))
        gate.reached()
        for id in (second, first):
            assert asked(port, "DELETE", f"/v1/exports/{id}")[1]["state"] == "cancelled"
        for key in ("cancelled-0.tar", "cancelled-1.tar"):
            assert kept_bytes(kept, key) is None
        assert left(kept) == []


def test_drained_it_goes_on_where_it_was(kept: S3Kept, expected: bytes, serving: Callable[..., Serving]) -> None:
    """Put by after two parts: the next process sends the others only."""
    parts = -(-len(expected) // PART)
    with gated(kept.url, 3) as gate:
        server = serving(STREAMER_DRAIN_TIMEOUT="0", STREAMER_UPLOAD_CONCURRENCY="1", AWS_ENDPOINT_URL=gate.way.url)
        id = submitted(server.port, f"s3://{kept.bucket}/drained.tar")
        gate.reached()
        server.process.send_signal(signal.SIGTERM)
        assert server.ends() == 0, server.log
    assert left(kept) == ["drained.tar"]
    with gated(kept.url, parts + 1) as gate:
        server = serving(AWS_ENDPOINT_URL=gate.way.url)
        job = ended(server.port, id)
        assert (job["state"], job["attempts"]) == ("done", 2), job
        assert sum("partNumber" in call for call in gate.way.calls) == parts - 2
    assert kept_bytes(kept, "drained.tar") == expected
    assert left(kept) == []


def test_drained_in_time_it_ends(kept: S3Kept, expected: bytes, serving: Callable[..., Serving]) -> None:
    with gated(kept.url, 2) as gate:
        server = serving(STREAMER_DRAIN_TIMEOUT="100", STREAMER_UPLOAD_CONCURRENCY="2", AWS_ENDPOINT_URL=gate.way.url)
        submitted(server.port, f"s3://{kept.bucket}/in-time.tar")
        gate.reached()
        with Client(server.port) as other:
            other.request("/healthz")
            assert other.answer().status == 200
            server.process.send_signal(signal.SIGTERM)
            refused(other)
        gate.open()
        assert server.ends(100) == 0
    assert kept_bytes(kept, "in-time.tar") == expected
    assert left(kept) == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_drained_with_downloads_everything_ends(kept: S3Kept, expected: bytes, serving: Callable[..., Serving]) -> None:
    """20 downloads and 5 jobs are under way: nothing new is taken, all of them end, and the status says so."""
    # Whoever is read last waits for all the others.
    server = serving(STREAMER_DRAIN_TIMEOUT="250", STREAMER_STALL_TIMEOUT="250", STREAMER_MAX_JOBS="5")
    keys = [f"with-downloads/{number}.tar" for number in range(5)]
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(server.port)) for _ in range(20)]
        for client in clients:
            client.request("/v1/images/big:1/archive")
            assert client.head().status == 200
        for key in keys:
            submitted(server.port, f"s3://{kept.bucket}/{key}")
        other = stack.enter_context(Client(server.port))
        other.request("/healthz")
        assert other.answer().status == 200
        running(server.port, 5)
        server.process.send_signal(signal.SIGTERM)
        refused(other)
        assert all(client.ends_cleanly() for client in clients)
    assert server.ends(250) == 0
    for key in keys:
        assert kept_bytes(kept, key) == expected
    assert left(kept) == []


def running(port: int, count: int) -> None:
    """Back once so many jobs run, or have ended."""
    end = time.monotonic() + 60
    while (
        sum(job["state"] != "queued" for job in asked(port, "GET", "/v1/exports?destination=s3://exports/with")[1])
        < count
    ):
        assert time.monotonic() < end


def refused(client: Client) -> None:
    """Back once the server refuses new downloads and jobs on a connection that was open before."""
    end = time.monotonic() + 60
    while True:
        client.request("/v1/images/big:1/archive", "GET", "Range: bytes=0-0\r\n")
        answer = client.answer()
        if answer.status == 503:
            break
        assert time.monotonic() < end
    body = b'{"source": {"kind": "image", "ref": "big:1"}, "destination": "s3://exports/late.tar"}'
    client.request("/v1/exports", "POST", f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n")
    client.send(body)
    assert client.answer().status == 503


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_at_any_time_every_job_ends_once(kept: S3Kept, expected: bytes, serving: Callable[..., Serving]) -> None:
    """SIGKILL again and again; after the last start every job is done and right, and no upload is left."""
    chance = random.Random(KILLS)
    ids: dict[str, str] = {}
    for number in range(KILLS):
        server = serving(STREAMER_MAX_JOBS="3", STREAMER_UPLOAD_CONCURRENCY="2")
        for each in range(2):
            key = f"killed/{number}-{each}.tar"
            ids[key] = submitted(server.port, f"s3://{kept.bucket}/{key}")
        time.sleep(chance.uniform(0, 1.5))
        server.process.kill()
        server.process.wait()
    server = serving(STREAMER_MAX_JOBS="3")
    digest = "sha256:" + hashlib.sha256(expected).hexdigest()
    for key, id in ids.items():
        job = ended(server.port, id, 300)
        assert (job["state"], job["digest"]) == ("done", digest), str(job)
        assert kept_bytes(kept, key) == expected, key
    assert left(kept) == []
