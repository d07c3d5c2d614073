"""Builds whose client leaves, whose service stops, whose process is killed: nothing is half there, nothing is left."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import pytest
from support import commandline, images
from support.clients import Client
from support.images import file, layer
from support.leaks import held, settles
from support.serving import Served, served

from streamer.errors import Draining
from streamer.stores.local.store import LocalStore

STEPS = 5
BULK = random.Random(3).randbytes(400_000)
TEXT = "FROM scratch\n" + "".join(f"COPY f{number} /\nLABEL l{number}=1\n" for number in range(STEPS))
CONTEXT = layer(
    file("Dockerfile", TEXT.encode()), *(file(f"f{number}", b"%d" % number + BULK) for number in range(STEPS))
)


@pytest.fixture(params=[True, False], ids=["cancelling", "not-cancelling"])
def cancellation(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def upload(client: Client, share: float = 1) -> None:
    """Sends so much of the context."""
    client.request("/v1/builds?t=made", "POST", f"Content-Length: {len(CONTEXT)}\r\n")
    client.send(CONTEXT[: int(len(CONTEXT) * share)])


def before_its_end(client: Client) -> None:
    upload(client, 0.9)


def after_its_end(client: Client) -> None:
    upload(client)


def after_the_first_line(client: Client) -> None:
    upload(client)
    assert client.head().status == 200


def amid_the_steps(client: Client) -> None:
    upload(client)
    seen = b""
    while b"Step 5/" not in seen:
        seen += client.read(16)


LEAVING: dict[str, Callable[[Client], None]] = {
    "before its end": before_its_end,
    "after its end": after_its_end,
    "after the first line": after_the_first_line,
    "amid the steps": amid_the_steps,
}


async def idle(running: Served, state: Path) -> None:
    with anyio.fail_after(100):
        await running.background.idle()
    assert os.listdir(state / "staging") == []
    assert running.exporter.mounts.statistics().leases == 0


@pytest.mark.parametrize("moment", LEAVING)
async def test_a_client_that_leaves(tmp_path: Path, cancellation: bool, moment: str) -> None:
    async with LocalStore.open(tmp_path) as store, served(store, cancellation=cancellation) as running:

        def leave() -> None:
            with Client(running.port) as client:
                LEAVING[moment](client)
                client.reset()

        def whole() -> bytes:
            with Client(running.port) as client:
                upload(client)
                return client.answer().body

        await asyncio.to_thread(leave)
        await idle(running, tmp_path)
        before = held(str(tmp_path))
        for _ in range(2):
            await asyncio.to_thread(leave)
            await idle(running, tmp_path)
        assert await settles(before, str(tmp_path)) == []
        # What was made before stays in the cache, and a whole build goes on from there.
        assert b"Successfully tagged made:latest" in await asyncio.to_thread(whole)
        assert len((await store.image("made")).layers) == STEPS


async def test_a_service_that_stops_amid_the_steps(tmp_path: Path) -> None:
    async with LocalStore.open(tmp_path) as store:
        async with AsyncExitStack() as stack:
            running = await stack.enter_async_context(served(store))
            client = stack.enter_context(Client(running.port))
            await asyncio.to_thread(amid_the_steps, client)
            running.background.refuse(Draining("the service is shutting down"))
        assert os.listdir(tmp_path / "staging") == []
        for image in (*await store.images(), *await store.steps()):
            for each in image.layers:
                assert each.assemble is not None
                assert images.sha256(b"".join(each.assemble())) == each.diff_id


@pytest.mark.slow
async def test_killed_at_random_times(tmp_path: Path) -> None:
    context = tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(TEXT)
    for number in range(STEPS):
        (context / f"f{number}").write_bytes(b"%d" % number + BULK)
    state = tmp_path / "state"
    chance = random.Random(8)
    for _ in range(5):
        with commandline.start("build", context, "--no-cache", "--state", state, "-t", "made") as process:
            assert process.stderr is not None
            process.stderr.readline()
            time.sleep(chance.random() * 0.4)  # any moment will do
            process.send_signal(signal.SIGKILL)
        async with LocalStore.open(state) as store:
            assert os.listdir(state / "staging") == os.listdir(state / "trash") == []
            for image in (*await store.images(), *await store.steps()):
                for each in image.layers:
                    assert each.assemble is not None
                    assert images.sha256(b"".join(each.assemble())) == each.diff_id
    done = await asyncio.to_thread(commandline.run, "build", context, "--state", state, "-t", "made")
    assert done.returncode == 0, done.stderr
    async with LocalStore.open(state) as store:
        assert len((await store.image("made")).layers) == STEPS
        await store.remove_image("made")
        await store.prune()
        assert len(await store.images()) == len(await store.layers()) == 0
