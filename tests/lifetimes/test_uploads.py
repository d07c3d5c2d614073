"""Uploads: moment x failure x handler cancellation, over a real socket into a real store.

After each: no row, no file, no descriptor, thread or task more than before, a status that fits (where anybody is left
to hear it), and a good upload works at once.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from support import images
from support.asking import ask, problem
from support.clients import Client
from support.images import file
from support.leaks import held, settles
from support.serving import served
from support.uploads import GOOD, GOOD_ARCHIVE, LARGE, LARGE_ARCHIVE, Uploads, kept, nothing_left

from streamer.stores.local.store import LocalStore


@pytest.fixture(params=[True, False], ids=["cancelling", "not-cancelling"])
def cancellation(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(autouse=True)
def no_tracebacks(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nothing that a client does is worth a line of aiohttp's or asyncio's, let alone a traceback."""
    yield
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def begin(client: Client, framing: str, query: str = "") -> None:
    header = f"Content-Length: {len(LARGE_ARCHIVE)}\r\n" if framing == "length" else "Transfer-Encoding: chunked\r\n"
    client.request(f"/v1/images{query}", "POST", header)


def send(client: Client, framing: str, data: bytes) -> None:
    if framing == "length":
        client.send(data)
        return
    for start in range(0, len(data), 100_000):
        piece = data[start : start + 100_000]
        client.send(b"%x\r\n%b\r\n" % (len(piece), piece))


async def test_a_good_upload(tmp_path: Path, cancellation: bool) -> None:
    async with LocalStore.open(tmp_path) as store, served(store, cancellation=cancellation) as running:

        def upload(framing: str) -> None:
            with Client(running.port) as client:
                begin(client, framing)
                send(client, framing, LARGE_ARCHIVE)
                if framing == "chunked":
                    client.send(b"0\r\n\r\n")
                answer = client.answer()
                assert answer.status == 201
                (value,) = json.loads(answer.body)["images"]
                assert (value["id"], value["names"], value["layers"]) == (LARGE.id, ["large:1"], LARGE.diff_ids)
                assert answer.headers["location"] == f"/v1/images/{LARGE.id}/archive"
                assert ask(running.port, answer.headers["location"], "HEAD").status == 200

        for framing in ("length", "chunked"):  # the second finds every layer there already
            await asyncio.to_thread(upload, framing)
        for diff_id, data in zip(LARGE.diff_ids, LARGE.layers, strict=True):
            assert (await asyncio.to_thread(ask, running.port, f"/v1/layers/{diff_id}/archive")).body == data


@pytest.mark.parametrize("compression", images.COMPRESS)
@pytest.mark.parametrize("form", ["docker-archive", "oci", "rootfs"])
async def test_every_form_in_every_compression(tmp_path: Path, form: str, compression: str) -> None:
    data = {
        "docker-archive": images.pack(images.docker(GOOD)),
        "oci": images.pack(images.oci(GOOD)),
        "rootfs": GOOD.layers[0],
    }[form]
    async with nothing_left(tmp_path / "state") as uploads:
        for query in ("?name=given:2", f"?name=given:2&format={form}"):
            answer = await uploads.post(images.COMPRESS[compression](data), query)
            assert answer.status == 201, answer
            (value,) = json.loads(answer.body)["images"]
            assert value["names"] == ["given:2"]
            assert value["layers"] == (GOOD.diff_ids[:1] if form == "rootfs" else GOOD.diff_ids)
            await uploads.store.remove_image("given:2")


OFFSETS = [0, 1, 511, 513, (64 << 10) + 1, len(LARGE_ARCHIVE) // 2, len(LARGE_ARCHIVE) - 1]


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_client_that_drops_at_every_phase(tmp_path: Path, cancellation: bool, how: str, framing: str) -> None:
    async with nothing_left(tmp_path / "state", cancellation=cancellation) as uploads:
        for offset in OFFSETS:

            def drop(offset: int) -> None:
                with Client(uploads.port) as client:
                    begin(client, framing)
                    send(client, framing, LARGE_ARCHIVE[:offset])
                    getattr(client, how)()

            await asyncio.to_thread(drop, offset)
            if offset % 2:
                await uploads.settled()


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_client_that_drops_after_everything(tmp_path: Path, cancellation: bool, how: str) -> None:
    """The import may still succeed; then wholly."""
    async with nothing_left(tmp_path / "state", cancellation=cancellation) as uploads:
        for delay in (0, 0.005, 0.02, 0.1):

            def drop(delay: float) -> None:
                with Client(uploads.port) as client:
                    begin(client, "length")
                    client.send(LARGE_ARCHIVE)
                    threading.Event().wait(delay)
                    getattr(client, how)()

            await asyncio.to_thread(drop, delay)
            with anyio.fail_after(60):
                await uploads.running.background.idle()
            for image in await uploads.store.images():
                assert image.id == LARGE.id
                for stored, data in zip(image.layers, LARGE.layers, strict=True):
                    assert stored.assemble is not None
                    assert b"".join(stored.assemble()) == data
                await uploads.store.remove_image(image.id)
            await uploads.settled()


@pytest.mark.parametrize("offset", [0, 100, len(LARGE_ARCHIVE) // 2])
async def test_a_client_that_stalls(tmp_path: Path, cancellation: bool, offset: int) -> None:
    async with nothing_left(tmp_path / "state", cancellation=cancellation, upload_timeout=1) as uploads:

        def stall() -> None:
            with Client(uploads.port) as client:
                begin(client, "length")
                client.send(LARGE_ARCHIVE[:offset])
                answer = client.answer()
                members = problem(answer)
                assert (answer.status, members["code"]) == (408, "stalled")
                assert "1 seconds" in members["detail"]
                assert answer.headers["connection"] == "close"

        await asyncio.to_thread(stall)


async def test_stalled_clients_do_not_keep_others_out(tmp_path: Path, cancellation: bool) -> None:
    """More of them than imports may run at once."""
    async with nothing_left(tmp_path / "state", cancellation=cancellation, upload_timeout=1) as uploads:

        def stall() -> None:
            with Client(uploads.port) as client:
                begin(client, "length")
                client.send(LARGE_ARCHIVE[:1000])
                assert client.answer().status == 408

        async with anyio.create_task_group() as tasks:
            for _ in range(8):
                tasks.start_soon(asyncio.to_thread, stall)
            await anyio.sleep(0.05)
            await uploads.good()


async def test_a_client_that_sends_less_than_it_declared(tmp_path: Path, cancellation: bool) -> None:
    async with nothing_left(tmp_path / "state", cancellation=cancellation) as uploads:

        def short(framing: str) -> None:
            with Client(uploads.port) as client:
                begin(client, framing)
                send(client, framing, LARGE_ARCHIVE[:-1])
                client.socket.shutdown(1)
                # A client that closes its sending side is taken for gone: nothing comes, least of all a success.
                assert client.read(12) in (b"", b"HTTP/1.1 400")

        for framing in ("length", "chunked"):
            await asyncio.to_thread(short, framing)


CHUNKS = {
    "size is no number": b"zz\r\nabc\r\n",
    "size is negative": b"-1\r\n",
    "size has a sign": b"+3\r\nabc\r\n",
    "size has a prefix": b"0x3\r\nabc\r\n",
    "size is huge": b"f" * 17 + b"\r\n",
    "size is empty": b"\r\nabc\r\n",
    "chunk is longer than its size": b"3\r\nabcde\r\n0\r\n\r\n",
    "chunk ends in LF": b"3\r\nabc\n0\r\n\r\n",
    "trailer is endless": b"0\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
    "trailer is none": b"0\r\nno colon\r\n\r\n",
}


@pytest.mark.parametrize("name", CHUNKS)
async def test_broken_chunks(tmp_path: Path, cancellation: bool, name: str) -> None:
    async with nothing_left(tmp_path / "state", cancellation=cancellation) as uploads:

        def broken(offset: int) -> None:
            with Client(uploads.port) as client:
                begin(client, "chunked")
                send(client, "chunked", LARGE_ARCHIVE[:offset])
                try:
                    client.send(CHUNKS[name])
                except ConnectionError:
                    pass
                assert problem(client.answer())["status"] == 400

        for offset in (0, 700, len(LARGE_ARCHIVE) // 2):
            await asyncio.to_thread(broken, offset)


async def test_many_clients_that_drop_at_once(tmp_path: Path, cancellation: bool) -> None:
    async with nothing_left(tmp_path / "state", cancellation=cancellation) as uploads:

        def drop(offset: int) -> None:
            with Client(uploads.port) as client:
                begin(client, "length")
                client.send(LARGE_ARCHIVE[:offset])

        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(asyncio.to_thread, drop, number * 100_000 + 1)
        # More than may wait at once: until the server has seen them leave, it says that it is busy.
        with anyio.fail_after(60):
            while (await uploads.post(GOOD_ARCHIVE)).status == 503:
                await anyio.sleep(0.01)
        await uploads.store.remove_image("good:1")


async def test_shutting_down_under_open_uploads(tmp_path: Path, cancellation: bool) -> None:
    halfway, stopped = threading.Event(), threading.Event()
    before = held()

    def broken(port: int) -> None:
        with Client(port) as client:
            begin(client, "length")
            client.send(LARGE_ARCHIVE[: len(LARGE_ARCHIVE) // 2])
            halfway.set()
            assert stopped.wait(60)
            assert client.read(12) in (b"", b"HTTP/1.1 503"), "an upload that was not whole succeeded"

    async with LocalStore.open(tmp_path) as store:
        empty = kept(tmp_path)
        async with anyio.create_task_group() as tasks:
            with anyio.fail_after(60):
                async with served(store, cancellation=cancellation) as running:
                    tasks.start_soon(asyncio.to_thread, broken, running.port)
                    await asyncio.to_thread(halfway.wait, 60)
                assert running.background.running == 0
            stopped.set()
        assert kept(tmp_path) == empty
    assert await settles(before) == []


def resident(field: str) -> int:
    with open("/proc/self/status", encoding="ascii") as status:
        (line,) = (line for line in status if line.startswith(field))
    return int(line.split()[1]) << 10


@pytest.mark.slow
async def test_memory_is_bounded(tmp_path: Path) -> None:
    block = random.randbytes(1 << 20)
    blocks = 128

    def upload(uploads: Uploads) -> None:
        info, _ = file("large")
        info.size = blocks << 20
        head = info.tobuf()
        with Client(uploads.port) as client:
            client.request("/v1/images?name=large", "POST", f"Content-Length: {len(head) + (blocks << 20) + 1024}\r\n")
            client.send(head)
            for _ in range(blocks):
                client.send(block)
            client.send(bytes(1024))
            assert client.answer().status == 201

    async with nothing_left(tmp_path / "state") as uploads:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as peak:
            peak.write("5")
        before = resident("VmRSS")
        await asyncio.to_thread(upload, uploads)
        assert resident("VmHWM") - before < 24 << 20
        await uploads.store.remove_image("large")
