"""Jobs in the database: what goes in comes out, and an end is an end."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from streamer.export.image import Format
from streamer.export.plan import Options
from streamer.jobs.job import Order, Problem, State, Traces
from streamer.jobs.ledger import Ledger
from streamer.jobs.planning import Wanted, What
from streamer.jobs.schema import MIGRATIONS
from streamer.sinks.address import parse
from streamer.sinks.base import Part
from streamer.tar.compression import Compression
from streamer.tar.entry import Profile

PLAIN = Order(Wanted(What.LAYER, ("sha256:a",)), parse("s3://bucket/a.tar"))
FULL = Order(
    Wanted(
        What.CONTAINER,
        ("web",),
        "docker",
        Options(Compression.ZSTD, Profile.FULL, ("a", "b"), ("c",), 5, b"etc/\xff", True),
        Format("docker-legacy"),
    ),
    parse("file:///some where/a.tar"),
    overwrite=False,
)


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[Ledger]:
    async with Ledger.open(folder / "jobs.db") as ledger:
        yield ledger


async def test_an_order_survives(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        for id, order in (("1", PLAIN), ("2", FULL)):
            await ledger.add(id, order, None)
    async with opened(tmp_path) as ledger:
        for id, order in (("1", PLAIN), ("2", FULL)):
            job = await ledger.job(id)
            assert job is not None
            assert (job.order, job.state) == (order, State.QUEUED)
        assert await ledger.waiting() == [
            ("1", "s3://bucket", "s3://bucket/a.tar"),
            ("2", "file://", "file:///some%20where/a.tar"),
        ]


async def test_parts_of_an_older_version(tmp_path: Path) -> None:
    """Its column held MD5s only."""
    with contextlib.closing(sqlite3.connect(tmp_path / "jobs.db")) as old:
        for statement in MIGRATIONS[0]:
            old.execute(statement)
        old.execute(
            "INSERT INTO jobs (id, wanted, destination, place, state, created) VALUES ('1', '', '', '', 'queued', 0)"
        )
        old.execute("INSERT INTO parts VALUES ('1', 1, 5, 'e', 'd41d8cd98f00b204e9800998ecf8427e')")
        old.execute("PRAGMA user_version = 1")
        old.commit()
    async with opened(tmp_path) as ledger:
        traces = await ledger.traces("1")
    assert traces.parts == {1: (5, "e", "md5:d41d8cd98f00b204e9800998ecf8427e")}


async def test_a_key_gives_one_job(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        assert await ledger.add("1", PLAIN, "key") is not None
        assert await ledger.add("2", PLAIN, "key") is None
        job = await ledger.keyed("key")
        assert job is not None
        assert job.id == "1"


async def test_only_the_first_end_counts(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        await ledger.add("1", PLAIN, None)
        assert await ledger.start("1")
        assert await ledger.end("1", State.DONE, done=9, digest="sha256:x", etag="e")
        assert not await ledger.end("1", State.FAILED, error=Problem("internal", "late"))
        assert not await ledger.cancel("1")
        assert not await ledger.requeue("1")
        assert not await ledger.start("1")
        job = await ledger.job("1")
        assert job is not None
        assert (job.state, job.done, job.total, job.digest, job.etag, job.error) == (
            State.DONE, 9, 9, "sha256:x", "e", None,
        )  # fmt: skip


async def test_traces_of_an_attempt(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        await ledger.add("1", PLAIN, None)
        await ledger.start("1")
        await ledger.outlined("1", "v1", 100, 250)
        await ledger.begun("1", "upload")
        await ledger.stored("1", Part(1, 100, "e1", "m1"))
        await ledger.stored("1", Part(3, 50, "e3", "m3"))
        await ledger.completing("1", 250, "sha256:x")
        traces = Traces("upload", "v1", 100, 250, "sha256:x", {1: (100, "e1", "m1"), 3: (50, "e3", "m3")})
        assert await ledger.traces("1") == traces
        assert [job.id for job in await ledger.unfinished()] == ["1"]
        await ledger.outlined("1", "v2", 100, 260)
        assert await ledger.traces("1") == Traces(None, "v2", 100)
        await ledger.over("1")
        assert await ledger.traces("1") == Traces()


async def test_an_upload_whose_id_never_arrived(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        await ledger.add("1", PLAIN, None)
        await ledger.start("1")
        before = time.time()
        await ledger.asking("1")
        asked = (await ledger.traces("1")).asked
        assert asked is not None
        assert before <= asked <= time.time()
        await ledger.asking("1")  # the first one counts: any of them may have made an upload
        assert await ledger.traces("1") == Traces(asked=asked)
        await ledger.begun("1", "upload")
        assert await ledger.traces("1") == Traces("upload")
        for ended in (ledger.swept, ledger.over):
            await ledger.asking("1")
            await ended("1")
            assert (await ledger.traces("1")).asked is None
        await ledger.asking("1")
        await ledger.end("1", State.FAILED)
        [(job, upload, since)] = await ledger.leftovers()
        assert (job.id, upload) == ("1", None)
        assert since is not None
        assert await ledger.forget(1e12) == 0
        await ledger.over("1")
        assert await ledger.forget(1e12) == 1


async def test_filters(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        for number in range(5):
            order = Order(PLAIN.wanted, parse(f"s3://bucket/{'ab%'[number % 3]}/{number}.tar"))
            await ledger.add(str(number), order, None)
        await ledger.cancel("3")

        async def ids(states: list[State], prefix: str = "", limit: int = 10) -> list[str]:
            return [job.id for job in await ledger.listed(states, prefix, limit)]

        assert await ids(list(State)) == ["4", "3", "2", "1", "0"]
        assert await ids(list(State), limit=2) == ["4", "3"]
        assert await ids([State.CANCELLED]) == ["3"]
        assert await ids(list(State), "s3://bucket/a/") == ["3", "0"]
        assert await ids(list(State), "s3://bucket/%") == ["2"]


async def test_what_is_not_shown_takes_no_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamer.jobs.ledger._PAGE", 2)
    async with opened(tmp_path) as ledger:
        for number in range(9):
            await ledger.add(str(number), PLAIN, None)

        async def ids(shown: str, limit: int) -> str:
            return "".join(job.id for job in await ledger.listed(list(State), "", limit, lambda job: job.id in shown))

        assert await ids("0", 1) == "0"
        assert await ids("1347", 2) == "74"
        assert await ids("1347", 4) == "7431"
        assert await ids("1347", 9) == "7431"
        assert await ids("", 3) == ""


async def test_uploads_that_ended_jobs_left(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        for id in ("1", "2", "3"):
            await ledger.add(id, PLAIN, None)
            await ledger.start(id)
            await ledger.begun(id, f"upload {id}")
        await ledger.end("1", State.FAILED)
        await ledger.end("2", State.CANCELLED)
        await ledger.over("2")
        assert [(job.id, *left) for job, *left in await ledger.leftovers()] == [("1", "upload 1", None)]
        assert await ledger.uploads(PLAIN.destination.uri) == ["upload 3"]
        # What ended is forgotten, unless there is something to take back.
        assert await ledger.forget(0) == 0
        assert await ledger.forget(1e12) == 1
        assert [job.id for job in await ledger.listed(list(State), "", 10)] == ["3", "1"]
