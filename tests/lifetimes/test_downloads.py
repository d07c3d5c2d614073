"""The lifetimes matrix: moment x failure x length (known or not) x handler cancellation, over a real socket and a real
overlay mount.

After each: no lease, mount, descriptor or thread more than before, no task of ours, no open export; and no body that
ended cleanly after a failure.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import anyio
import anyio.from_thread
import pytest
from support.clients import Client
from support.leaks import held, settles
from support.serving import Served, served
from support.stores import DirectoryStore

from streamer.errors import Draining, SourceChanged
from streamer.export.plan import ExportPlan, Outline, Outlining, Session
from streamer.web import archives

pytestmark = pytest.mark.root

FILE = 3 << 20
FILES = 12
Fault = Callable[[Session, Iterator[bytes]], Iterator[bytes]]
UNKNOWN = "/v1/containers/box/archive?length=unknown"
KNOWN = "/v1/containers/box/archive?length=known"
Phase = Callable[[Client, str], None]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> DirectoryStore:
    """A container of some 36 MiB over three layers: more than all buffers between here and a client hold."""
    root = tmp_path_factory.mktemp("box")
    layers = [root / name for name in ("upper", "middle", "base")]
    for number, layer in enumerate(layers):
        (layer / f"d{number}").mkdir(parents=True)
        for index in range(FILES // 3):
            (layer / f"d{number}" / f"f{index}").write_bytes(os.urandom(1 << 16) * (FILE >> 16))
    made = DirectoryStore()
    made.add("box", *layers)
    return made


@pytest.fixture(params=[True, False], ids=["cancelling", "not-cancelling"])
def cancellation(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(params=[UNKNOWN, KNOWN], ids=["unknown", "known"])
def target(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[False, True], ids=["plain", "TLS"])
def tls(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@asynccontextmanager
async def nothing_left(store: DirectoryStore, **options: object) -> AsyncIterator[Served]:
    """Serve while the block is open; afterwards nothing may be left, first with the server still up, then without."""
    async with served(store, **options) as running:  # type: ignore[arg-type]
        await warm(running)
        mark = os.fsdecode(store.kept[0].snapshot.layers[0].rpartition(b"/")[0])
        before = held(mark)
        yield running
        with anyio.fail_after(60):
            await running.exporter.idle()
        assert running.exporter.mounts.statistics().leases == 0
        assert running.exporter.mounts.statistics().mounts == 0
        assert running.exporter.statistics().abandoned == 0
        assert await settles(before, mark) == []
    left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task() and not task.done()]
    assert left == []


async def warm(running: Served) -> None:
    """One small request, so that what is opened once per process is open before anything is counted."""

    def ask() -> None:
        with Client(running.port) as client:
            client.request("/healthz", headers="Connection: close\r\n")
            assert client.answer().complete

    await asyncio.to_thread(ask)


@pytest.fixture
def breakable(monkeypatch: pytest.MonkeyPatch) -> Callable[[Fault], None]:
    """Wraps the chunks of every container export in a fault."""
    original = archives.plan_container

    def install(fault: Fault) -> None:
        def faulty(*arguments: object) -> ExportPlan:
            plan = original(*arguments)  # type: ignore[arg-type]
            return replace(plan, chunks=lambda session: fault(session, plan.chunks(session)), outline=outlined(plan))

        def outlined(plan: ExportPlan) -> Outlining:
            @contextmanager
            def outline(session: Session, first: int) -> Iterator[Outline]:
                assert plan.outline is not None
                with plan.outline(session, first) as made:
                    yield replace(made, part=lambda span: fault(session, made.part(span)))

            return outline

        monkeypatch.setattr(archives, "plan_container", faulty)

    return install


def download(port: int, leave: Callable[[Client], None]) -> None:
    with Client(port) as client:
        leave(client)


def after_request(client: Client, target: str) -> None:
    client.request(target)


def after_half_a_request(client: Client, _target: str) -> None:
    client.send(b"GET /v1/containers/box/arch")


def after_headers(client: Client, target: str) -> None:
    client.request(target)
    assert client.head().status == 200


def after_bytes(count: int) -> Phase:
    def phase(client: Client, target: str) -> None:
        after_headers(client, target)
        assert len(client.read(count)) == count

    return phase


def within_a_part(client: Client, target: str) -> None:
    if target == KNOWN:
        client.request(target, headers="Range: bytes=1000000-30000000\r\n")
        assert client.head().status == 206
        assert len(client.read(12_345_678)) == 12_345_678


def while_a_digest_is_made(client: Client, target: str) -> None:
    client.request(target, "HEAD", "Want-Repr-Digest: sha-256=1\r\n")


def after_a_head(client: Client, target: str) -> None:
    client.request(target, "HEAD")
    assert client.head().status == 200


def after_everything(client: Client, target: str) -> None:
    client.request(target)
    answer = client.answer()
    assert answer.status == 200
    assert answer.complete


PHASES = [
    after_half_a_request,
    after_request,
    after_headers,
    after_bytes(1),
    after_bytes(511),
    after_bytes(513),
    after_bytes((64 << 10) + 1),
    after_bytes(FILE + 5000),
    after_bytes(FILE * FILES),
    within_a_part,
    while_a_digest_is_made,
    after_a_head,
    after_everything,
]


@pytest.mark.parametrize("phase", PHASES, ids=lambda phase: getattr(phase, "__name__", "phase"))
@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_client_that_drops_at_every_phase(store, cancellation, target, phase, how):
    async with nothing_left(store, cancellation=cancellation) as running:

        def leave(client: Client) -> None:
            phase(client, target)
            getattr(client, how)()

        await asyncio.to_thread(download, running.port, leave)


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_client_that_drops_while_mounting(store, cancellation, target, how, monkeypatch):
    mounting, go_on = threading.Event(), threading.Event()
    async with nothing_left(store, cancellation=cancellation) as running:
        original = running.exporter.mounts._mounted_now

        def slow(*arguments: object) -> int:
            mounting.set()
            go_on.wait(60)
            return original(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(running.exporter.mounts, "_mounted_now", slow)

        def leave(client: Client) -> None:
            client.request(target)
            assert mounting.wait(60)
            getattr(client, how)()

        await asyncio.to_thread(download, running.port, leave)
        await anyio.sleep(0.05)
        assert running.exporter.statistics().open == 1, "the mount call is finished, never torn"
        go_on.set()


async def test_many_clients_that_drop_at_once(store, cancellation, target):
    async with nothing_left(store, cancellation=cancellation) as running, anyio.create_task_group() as tasks:
        for number in range(20):
            phase = after_bytes(number * 100_000 + 1)
            tasks.start_soon(asyncio.to_thread, download, running.port, partial(phase, target=target))


async def test_a_stalled_client_is_ended_by_the_deadline(store, tls, cancellation, target):
    async with nothing_left(store, cancellation=cancellation, tls=tls, stall_timeout=0.4) as running:

        def stall(client: Client) -> None:
            after_headers(client, target)
            # Reading again after the deadline shows what had been sent, and then the broken end.
            anyio.from_thread.run(running.exporter.idle)
            assert not client.ends_cleanly()

        with anyio.fail_after(60):
            await anyio.to_thread.run_sync(download, running.port, stall)


async def test_a_dripping_client_is_ended_by_the_deadline(store, tls, cancellation, target):
    async with nothing_left(store, cancellation=cancellation, tls=tls, stall_timeout=0.5) as running:
        begun, ended = threading.Event(), threading.Event()

        def drip(client: Client) -> None:
            after_headers(client, target)
            begun.set()
            while not ended.is_set():
                if not client.read(1):
                    return
                ended.wait(0.02)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.to_thread.run_sync, download, running.port, drip)
            assert await asyncio.to_thread(begun.wait, 60)
            with anyio.fail_after(60):
                await running.exporter.idle()
            ended.set()


async def test_a_slow_but_steady_client_is_not_ended(store, tls, cancellation, target):
    async with nothing_left(store, cancellation=cancellation, tls=tls, stall_timeout=2) as running:

        def steadily(client: Client) -> None:
            after_headers(client, target)
            for _ in range(25):  # longer in all than anybody may stall
                assert client.read(1 << 20), "broken off although it was read"
                threading.Event().wait(0.1)

        await asyncio.to_thread(download, running.port, steadily)


@pytest.mark.parametrize("after", [0, 1, 2, 20])
@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), SourceChanged("it shrank"), ZeroDivisionError()])
async def test_a_source_that_fails(store, tls, cancellation, target, breakable, after, error):
    def fault(_session: Session, chunks: Iterator[bytes]) -> Iterator[bytes]:
        for number, chunk in enumerate(chunks):
            if number == after:
                chunks.close()  # type: ignore[attr-defined]
                raise error
            yield chunk

    breakable(fault)
    async with nothing_left(store, cancellation=cancellation, tls=tls) as running:

        def fails(client: Client) -> None:
            client.request(target)
            answer = client.answer()
            # Of a body whose length is known the last chunk made is held back until it is right.
            if after == 0 or (after == 1 and target == KNOWN):
                assert answer.status == 500
                assert answer.headers["content-type"] == "application/problem+json"
                assert b"Traceback" not in answer.body
            else:
                assert answer.status == 200
                assert not answer.complete, "a clean end after a failure"

        await asyncio.to_thread(download, running.port, fails)


async def test_an_end_check_that_fails_breaks_the_body(store, cancellation, target):
    def gone() -> None:
        raise SourceChanged("the container was removed")

    faulty = DirectoryStore(kept=[replace(store.kept[0], guard=gone)])
    async with nothing_left(faulty, cancellation=cancellation) as running:

        def fails(client: Client) -> None:
            client.request(target)
            answer = client.answer()
            assert answer.status == 200
            assert len(answer.body) >= FILE * FILES - (2 << 20)
            assert not answer.complete

        await asyncio.to_thread(download, running.port, fails)


async def test_a_mount_that_fails_is_a_status(cancellation, target, tmp_path: Path):
    missing = DirectoryStore()
    (tmp_path / "upper").mkdir()
    missing.add("box", tmp_path / "upper", tmp_path / "missing")
    async with nothing_left(missing, cancellation=cancellation) as running:

        def fails(client: Client) -> None:
            client.request(target)
            answer = client.answer()
            assert answer.status == 500
            assert answer.complete

        await asyncio.to_thread(download, running.port, fails)


async def test_head_without_a_length_mounts_nothing(store, cancellation):
    async with nothing_left(store, cancellation=cancellation) as running:

        def head(client: Client) -> None:
            client.request(UNKNOWN, method="HEAD")
            answer = client.head()
            assert answer.status == 200
            assert answer.headers["content-type"] == "application/x-tar"

        before = running.exporter.mounts.statistics()
        await asyncio.to_thread(download, running.port, head)
        assert running.exporter.mounts.statistics() == before


async def test_aborting_breaks_open_bodies(store, cancellation, target):
    async with nothing_left(store, cancellation=cancellation) as running:
        halfway, aborted = threading.Event(), threading.Event()

        def broken(client: Client) -> None:
            after_bytes(1 << 20)(client, target)
            halfway.set()
            assert aborted.wait(60)
            assert not client.ends_cleanly()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(asyncio.to_thread, download, running.port, broken)
            assert await asyncio.to_thread(halfway.wait, 60)
            running.exporter.abort(Draining("shutting down"))
            aborted.set()


async def test_shutting_down_under_open_downloads(store, cancellation, target):
    halfway, stopped = threading.Event(), threading.Event()
    before = held()

    def broken(port: int) -> None:
        with Client(port) as client:
            after_bytes(1 << 20)(client, target)
            halfway.set()
            assert stopped.wait(60)
            assert not client.ends_cleanly()

    async with anyio.create_task_group() as tasks:
        async with served(store, cancellation=cancellation) as running:
            tasks.start_soon(asyncio.to_thread, broken, running.port)
            assert await asyncio.to_thread(halfway.wait, 60)
        assert running.exporter.statistics().open == 0
        stopped.set()
    assert await settles(before) == []


async def test_http_1_0_cannot_have_a_body_of_unknown_length(store, cancellation):
    async with nothing_left(store, cancellation=cancellation) as running:

        def old(client: Client) -> None:
            client.request(UNKNOWN, version="1.0")
            assert client.head().status == 505

        await asyncio.to_thread(download, running.port, old)


async def test_a_client_that_never_takes_the_last_bytes(store, tls, cancellation, breakable):
    """What still lies in the server's own buffer when the body is written is watched over as well."""

    def short(_session: Session, chunks: Iterator[bytes]) -> Iterator[bytes]:
        chunks.close()  # type: ignore[attr-defined]
        for _ in range(400):
            yield bytes(16 << 10)

    breakable(short)
    async with nothing_left(store, cancellation=cancellation, tls=tls, stall_timeout=0.4) as running:
        clients = []

        def connect() -> None:
            client = Client(running.port, receive_buffer=4096)
            clients.append(client)
            client.request(UNKNOWN)
            assert client.head().status == 200

        for _ in range(5):
            await asyncio.to_thread(connect)
        with anyio.fail_after(60):
            await running.exporter.idle()
        for client in clients:
            assert not await asyncio.to_thread(client.ends_cleanly)
            client.close()
