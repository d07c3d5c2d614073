"""Jobs whose process died at some moment, as the next one finds them: done and right, and nobody else's is touched."""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import anyio
import pytest
from support import storage
from support.faults import Faulty, faulty
from support.planned import Planned
from support.storage import ObstoreKept, S3Kept
from support.stores import DirectoryStore

from streamer.export.exporter import exporter
from streamer.jobs import planning
from streamer.jobs.job import Job, Order, State
from streamer.jobs.ledger import Ledger
from streamer.jobs.opening import jobs
from streamer.jobs.planning import Wanted, What
from streamer.jobs.queue import Queue
from streamer.sinks.address import Address, parse
from streamer.sinks.delivery import Manner
from streamer.sinks.patience import Patience
from streamer.sinks.storages import Access
from streamer.stores.catalog import Catalog

PART = 5 << 20
DATA = random.Random(7).randbytes(PART + 77)
DIGEST = "sha256:" + hashlib.sha256(DATA).hexdigest()
ID = "0123456789abcdef"
ACCESS = Access(path_style=True, plain=True, patience=Patience(tries=3, first_pause=0.01, longest_pause=0.05))


@pytest.fixture(scope="module")
def weed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Kept]:
    with storage.seaweedfs(tmp_path_factory.mktemp("weed")) as opened:
        yield opened


@pytest.fixture
def kept(weed: S3Kept, monkeypatch: pytest.MonkeyPatch) -> S3Kept:
    for name, value in weed.environment.items():
        monkeypatch.setenv(name, value)
    return weed


@pytest.fixture
async def way(kept: S3Kept, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Faulty]:
    async with faulty(kept.url) as made:
        monkeypatch.setenv("AWS_ENDPOINT_URL", made.url)
        yield made


@pytest.fixture(autouse=True)
def box(monkeypatch: pytest.MonkeyPatch) -> Planned:
    """What the container `box` is."""
    planned = Planned(DATA)
    monkeypatch.setattr(planning, "plan_container", planned.plan)
    return planned


@contextlib.asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Queue]:
    """The next process."""
    store = DirectoryStore()
    store.add("box", folder)
    async with exporter() as exports:
        catalog = Catalog({store.name: store})
        async with jobs(
            folder, catalog, exports, access=ACCESS, manner=Manner(PART, 2), limit=2, retention=3600
        ) as queue:
            yield queue


@contextlib.asynccontextmanager
async def dying(folder: Path, address: Address, *, overwrite: bool = True) -> AsyncIterator[Ledger]:
    """A process that writes down, for the job `ID`, what the block says, and no more."""
    async with Ledger.open(folder / "jobs.db") as ledger:
        await ledger.add(ID, Order(Wanted(What.CONTAINER, ("box",)), address, overwrite), None)
        await ledger.start(ID)
        yield ledger


async def tidied(folder: Path) -> None:
    """Back once no job that ended has left anything."""
    async with Ledger.open(folder / "jobs.db") as ledger:
        with anyio.fail_after(60):
            while await ledger.leftovers():
                await anyio.sleep(0.05)


async def ended(queue: Queue, id: str) -> Job:
    """The job, once it has ended."""
    with anyio.fail_after(60):
        while True:
            news, job = queue.news, await queue.job(id)
            if job.state.final:
                return job
            await news.wait()


@pytest.mark.parametrize("there", [False, True], ids=["not there", "there"])
async def test_who_may_only_write_goes_on(kept: S3Kept, way: Faulty, tmp_path: Path, there: bool) -> None:
    """The process died when the object might have appeared, and nobody may look whether it has."""
    key = f"blind-{there}.tar"
    way.blind = True
    async with dying(tmp_path, kept.address(key)) as ledger:
        await ledger.completing(ID, len(DATA), DIGEST)
    if there:
        await kept.write(key, DATA)
    async with running(tmp_path) as queue:
        job = await ended(queue, ID)
    assert (job.state, job.digest, job.error) == ("done", DIGEST, None)
    assert await kept.read(key) == DATA
    assert await kept.left() == []


async def test_somebody_elses_upload_stays(kept: S3Kept, tmp_path: Path) -> None:
    """A job that goes on takes back nothing but what it lost itself."""
    key = "shared.tar"
    async with dying(tmp_path, kept.address(key)):
        pass
    other = await kept.begin(key)
    async with running(tmp_path) as queue:
        assert (await ended(queue, ID)).state == "done"
    assert await kept.read(key) == DATA
    assert await kept.left() == [key]
    await kept.abort(key, other)


@pytest.mark.parametrize("end", [None, State.CANCELLED], ids=["goes on", "cancelled"])
async def test_an_upload_whose_id_never_arrived_is_taken_back(kept: S3Kept, tmp_path: Path, end: State | None) -> None:
    key = f"lost-{end}.tar"
    async with dying(tmp_path, kept.address(key)) as ledger:
        await ledger.asking(ID)
        await kept.begin(key)
        if end is not None:
            await ledger.end(ID, end)
    async with running(tmp_path) as queue:
        job = await ended(queue, ID)
        assert job.state == (end or "done")
        await tidied(tmp_path)
    assert await kept.read(key) == (None if end else DATA)
    assert await kept.left() == []


@pytest.fixture(scope="module")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObstoreKept]:
    with storage.azurite(tmp_path_factory.mktemp("azurite")) as opened:
        yield opened


@pytest.fixture
def azure(azurite: ObstoreKept, monkeypatch: pytest.MonkeyPatch) -> ObstoreKept:
    for name, value in azurite.environment.items():
        monkeypatch.setenv(name, value)
    return azurite


async def test_a_copy_beside_the_object_is_deleted_by_the_next_process(azure: ObstoreKept, tmp_path: Path) -> None:
    """It died between the copy to the object's place and the deletion of what was copied."""
    address = azure.address("copied.tar")
    beside = f"copied.tar.streamer-{ID}"
    async with dying(tmp_path, address, overwrite=False) as ledger:
        await ledger.begun(ID, beside)
        await ledger.completing(ID, len(DATA), DIGEST)
    for key in (beside, "copied.tar"):
        await azure.write(key, DATA, {"export": ID})
    async with running(tmp_path) as queue:
        job = await ended(queue, ID)
        assert (job.state, job.digest, job.attempts) == ("done", DIGEST, 2)
        await tidied(tmp_path)
    assert await azure.left() == []
    assert await azure.read("copied.tar") == DATA


async def test_a_copy_that_cannot_be_deleted_at_once_is_deleted_later(
    azure: ObstoreKept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with faulty(azure.url) as way:
        monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", f"{way.url}/{azure.account}")
        way.kept = True
        async with running(tmp_path) as queue:
            order = Order(Wanted(What.CONTAINER, ("box",)), azure.address("later.tar"), overwrite=False)
            job, _ = await queue.submit(order)
            assert (await ended(queue, job.id)).state == "done"
            assert await azure.left() == [f"later.tar.streamer-{job.id}"]
        way.kept = False
        async with running(tmp_path):
            await tidied(tmp_path)
    assert await azure.left() == []
    assert await azure.read("later.tar") == DATA


@pytest.mark.parametrize("end", [None, State.CANCELLED], ids=["goes on", "cancelled"])
async def test_a_file_with_its_passing_name_is_removed(tmp_path: Path, end: State | None) -> None:
    folder = tmp_path / "exports"
    folder.mkdir()
    left = folder / f".streamer-{ID}.part"
    async with dying(tmp_path, parse(str(folder / "a.tar"))) as ledger:
        await ledger.begun(ID, left.name)
        if end is not None:
            await ledger.end(ID, end)
    left.write_bytes(DATA[:1000])
    async with running(tmp_path) as queue:
        assert (await ended(queue, ID)).state == (end or "done")
        await tidied(tmp_path)
    assert [path.name for path in folder.iterdir()] == ([] if end else ["a.tar"])
