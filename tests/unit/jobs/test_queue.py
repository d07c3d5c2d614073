"""The queue in this process, into files: limits, turns, cancelling, and a next process that goes on."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream
from support.planned import Planned
from support.stores import DirectoryStore

from streamer.errors import Busy, Conflict, Draining, NotFound
from streamer.export.exporter import exporter
from streamer.jobs import planning
from streamer.jobs import queue as queues
from streamer.jobs.job import Job, Order, State
from streamer.jobs.ledger import Ledger
from streamer.jobs.opening import jobs
from streamer.jobs.planning import Wanted, What
from streamer.jobs.queue import Queue
from streamer.sinks.address import parse
from streamer.sinks.delivery import Manner
from streamer.sinks.storages import Access
from streamer.stores.catalog import Catalog

DATA = b"0123456789" * 100_000


@pytest.fixture
def box(monkeypatch: pytest.MonkeyPatch) -> Planned:
    """What the container `box` is, in every queue of the test."""
    planned = Planned(DATA)
    monkeypatch.setattr(planning, "plan_container", planned.plan)
    return planned


@contextlib.asynccontextmanager
async def opened(folder: Path, limit: int = 2, release_limit: float = 10, concurrency: int = 2) -> AsyncIterator[Queue]:
    store = DirectoryStore()
    store.add("box", folder)
    async with (
        exporter() as exports,
        jobs(
            folder / "state",
            Catalog({store.name: store}),
            exports,
            access=Access(plain=True),
            manner=Manner(1 << 20, concurrency),
            limit=limit,
            retention=3600,
            release_limit=release_limit,
        ) as queue,
    ):
        yield queue


def order(folder: Path, name: str = "a.tar", ref: str = "box") -> Order:
    return Order(Wanted(What.CONTAINER, (ref,)), parse(str(folder / name)))


async def state(queue: Queue, id: str, *wanted: State) -> Job:
    """The job, once it is in one of these states."""
    with anyio.fail_after(60):
        while True:
            news, job = queue.news, await queue.job(id)
            if job.state in wanted:
                return job
            with anyio.move_on_after(0.05):
                await news.wait()


class Failing:
    """Calls of the ledger of which the first ones fail, as a locked database makes them."""

    def __init__(self, patch: pytest.MonkeyPatch, name: str, times: int = 1) -> None:
        self.failed = 0
        real = getattr(Ledger, name)

        async def call(ledger: Ledger, *given: object, **named: object) -> object:
            if self.failed < times:
                self.failed += 1
                raise Busy("jobs.db was locked for 30 seconds")
            return await real(ledger, *given, **named)

        patch.setattr(Ledger, name, call)
        patch.setattr(queues, "_PAUSE", 0.01)


@pytest.mark.parametrize("call", ["leftovers", "unfinished", "waiting", "forget", "start", "traces", "end"])
async def test_a_database_that_fails_for_a_moment(
    tmp_path: Path, box: Planned, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Neither the queue ends, nor is a job left that nobody answers for."""
    failing = Failing(monkeypatch, call)
    async with opened(tmp_path) as queue:
        job, _ = await queue.submit(order(tmp_path))
        await state(queue, job.id, State.DONE)
        assert failing.failed == 1
    assert (tmp_path / "a.tar").read_bytes() == DATA


@pytest.mark.parametrize("overwrite", [True, False])
async def test_an_object_that_is_there_is_no_failure(
    tmp_path: Path, box: Planned, monkeypatch: pytest.MonkeyPatch, overwrite: bool
) -> None:
    """That nothing is left of its upload could not be written down."""
    Failing(monkeypatch, "over")
    async with opened(tmp_path) as queue:
        job, _ = await queue.submit(replace(order(tmp_path), overwrite=overwrite))
        job = await state(queue, job.id, State.DONE, State.FAILED)
        assert (job.state, job.attempts) == (State.DONE, 1)
    assert (tmp_path / "a.tar").read_bytes() == DATA


async def test_what_is_busy_while_it_is_sent_is_no_full_house(
    tmp_path: Path, box: Planned, monkeypatch: pytest.MonkeyPatch
) -> None:
    Failing(monkeypatch, "completing", 1000)
    async with opened(tmp_path) as queue:
        job, _ = await queue.submit(order(tmp_path))
        job = await state(queue, job.id, State.DONE, State.FAILED)
        assert job.error is not None
        assert (job.state, job.error.code) == (State.FAILED, Busy.code)
    assert not (tmp_path / "a.tar").exists()


async def test_to_its_end(tmp_path: Path, box: Planned) -> None:
    async with opened(tmp_path) as queue:
        job, new = await queue.submit(order(tmp_path))
        assert new
        job = await state(queue, job.id, State.DONE)
        assert (job.done, job.total, job.attempts) == (len(DATA), len(DATA), 1)
    assert (tmp_path / "a.tar").read_bytes() == DATA


async def test_what_cannot_be_is_refused_at_once(tmp_path: Path, box: Planned) -> None:
    async with opened(tmp_path) as queue:
        with pytest.raises(NotFound):
            await queue.submit(order(tmp_path, ref="nothing"))
        with pytest.raises(NotFound):
            await queue.submit(order(tmp_path, "missing/a.tar"))
        (tmp_path / "there.tar").write_bytes(b"before")
        with pytest.raises(Conflict):
            await queue.submit(replace(order(tmp_path, "there.tar"), overwrite=False))
        with pytest.raises(NotFound):
            await queue.job("nothing")
        with pytest.raises(NotFound):
            await queue.cancel("nothing")
        assert await queue.listed((), "", 10) == []


async def test_a_key_is_one_job(tmp_path: Path, box: Planned) -> None:
    async with opened(tmp_path) as queue:
        first, new = await queue.submit(order(tmp_path), "key")
        again, repeated = await queue.submit(order(tmp_path), "key")
        assert (first.id, new, repeated) == (again.id, True, False)
        with pytest.raises(Conflict):
            await queue.submit(order(tmp_path, "b.tar"), "key")


async def test_no_more_than_allowed_and_never_two_to_one_place(tmp_path: Path, box: Planned) -> None:
    box.gate = threading.Event()
    try:
        async with opened(tmp_path, limit=2) as queue:
            ids = [(await queue.submit(order(tmp_path, name)))[0].id for name in ("a", "a", "b", "c")]
            await state(queue, ids[0], State.RUNNING)
            await state(queue, ids[2], State.RUNNING)
            assert [(await queue.job(id)).state for id in ids] == ["running", "queued", "running", "queued"]
            box.gate.set()
            for id in ids:
                await state(queue, id, State.DONE)
    finally:
        box.gate.set()


async def test_cancelled(tmp_path: Path, box: Planned) -> None:
    box.gate = threading.Event()
    try:
        async with opened(tmp_path, limit=1) as queue:
            running, waiting = [(await queue.submit(order(tmp_path, name)))[0].id for name in ("a", "b")]
            await state(queue, running, State.RUNNING)
            assert (await queue.cancel(waiting)).state is State.CANCELLED
            assert (await queue.cancel(running)).state is State.CANCELLED
            assert (await queue.cancel(running)).state is State.CANCELLED
            box.gate.set()
    finally:
        box.gate.set()
    assert not (tmp_path / "a").exists()
    assert not (tmp_path / "b").exists()


async def test_the_next_process_goes_on(tmp_path: Path, box: Planned) -> None:
    box.gate = threading.Event()
    try:
        async with opened(tmp_path, limit=1) as queue:
            ids = [(await queue.submit(order(tmp_path, name)))[0].id for name in ("a", "b")]
            await state(queue, ids[0], State.RUNNING)
            queue.refuse(Draining("the service is shutting down"))
            with pytest.raises(Draining):
                await queue.submit(order(tmp_path, "c"))
            box.gate.set()  # its thread can leave; the job is put by all the same
            queue.suspend()
            await queue.idle()
            assert [(await queue.job(id)).state for id in ids] == ["queued", "queued"]
        assert not (tmp_path / "a").exists()
    finally:
        box.gate.set()
    async with opened(tmp_path) as queue:
        for id, attempts in zip(ids, (2, 1), strict=True):
            assert (await state(queue, id, State.DONE)).attempts == attempts
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == DATA


async def test_one_process_at_a_time(tmp_path: Path, box: Planned) -> None:
    async with opened(tmp_path):
        with pytest.raises(Conflict, match="another process runs the export jobs"):
            async with opened(tmp_path):
                pass
    async with opened(tmp_path):
        pass


async def test_a_database_that_always_fails_holds_nothing_up(
    tmp_path: Path, box: Planned, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = Failing(monkeypatch, "end", 1_000_000)
    async with opened(tmp_path, release_limit=0.2) as queue:
        await queue.submit(order(tmp_path))
        with anyio.fail_after(60):
            while failing.failed < 2:
                await anyio.sleep(0.01)
        began = anyio.current_time()
    assert anyio.current_time() - began < 5


class Hole:
    """A server that takes everything and answers nothing."""

    def __init__(self) -> None:
        self.taken = 0

    async def handle(self, stream: SocketStream) -> None:
        async with stream:
            with contextlib.suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                while True:
                    self.taken += len(await stream.receive())


@pytest.mark.parametrize(
    ("scheme", "overwrite", "given"),
    [("s3", True, 0), ("s3", False, 0), ("az", True, 15 << 20), ("az", False, 0)],
    ids=["s3 asked for an upload", "s3 asked for the object", "azure holds three parts", "azure asked for the object"],
)
async def test_a_storage_that_does_not_answer_holds_nothing_up(
    tmp_path: Path, box: Planned, monkeypatch: pytest.MonkeyPatch, scheme: str, overwrite: bool, given: int
) -> None:
    """Neither what is sent to it, nor what would have to be taken back."""
    box.data = DATA * 32
    hole = Hole()
    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as tasks,
    ):
        url = f"http://127.0.0.1:{listener.extra(SocketAttribute.local_port)}"
        for name, value in {
            "AWS_ENDPOINT_URL": url,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
            "AZURE_STORAGE_ENDPOINT": f"{url}/account",
            "AZURE_STORAGE_ACCOUNT_NAME": "account",
            "AZURE_STORAGE_ACCOUNT_KEY": "Zm9v",
        }.items():
            monkeypatch.setenv(name, value)
        tasks.start_soon(listener.serve, hole.handle)
        async with opened(tmp_path, release_limit=0.2, concurrency=1) as queue:
            wanted = replace(order(tmp_path), destination=parse(f"{scheme}://exports/a.tar"), overwrite=overwrite)
            job, _ = await queue.submit(wanted)
            with anyio.fail_after(60):
                while not hole.taken or (await queue.job(job.id)).done < given:
                    await anyio.sleep(0.01)
            began = anyio.current_time()
        assert anyio.current_time() - began < 5
        tasks.cancel_scope.cancel()
    async with Ledger.open(tmp_path / "state" / "jobs.db") as ledger:
        assert [id for id, _, _ in await ledger.waiting()] == [job.id]
