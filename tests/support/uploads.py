"""An empty store that takes uploads over a real socket, and the proof that a failed one left nothing in it."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
from support import images
from support.asking import ask
from support.clients import Answer
from support.images import directory, file, layer
from support.leaks import held, settles
from support.serving import Served, served

from streamer.stores.local.store import LocalStore

GOOD = images.image(layer(file("good", b"good")), layer(file("better", b"better")), names=["good:1"])
GOOD_ARCHIVE = images.pack(images.docker(GOOD))

_CHANCE = random.Random(5)
LARGE = images.image(
    layer(directory("d/"), *(file(f"d/{number}", _CHANCE.randbytes(700_000)) for number in range(3))),
    layer(file("top", _CHANCE.randbytes(300_000))),
    names=["large:1"],
)
LARGE_ARCHIVE = images.pack(images.docker(LARGE))


@dataclass
class Kept:
    """What a store keeps: every path of its directory, and every row of its database."""

    paths: list[str]
    rows: dict[str, list[Any]]


def kept(state: Path) -> Kept:
    paths = sorted(str(path.relative_to(state)) for path in state.rglob("*"))
    rows = {}
    with contextlib.closing(sqlite3.connect(f"file:{state}/streamer.db?mode=ro", uri=True)) as database:
        for (table,) in database.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall():
            rows[table] = database.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall()
    # The write-ahead log comes and goes with the readers.
    return Kept([path for path in paths if not path.startswith("streamer.db-")], rows)


@dataclass
class Uploads:
    store: LocalStore
    running: Served
    state: Path
    before: Kept

    @property
    def port(self) -> int:
        return self.running.port

    async def post(self, data: bytes, query: str = "") -> Answer:
        return await asyncio.to_thread(ask, self.port, f"/v1/images{query}", "POST", "", data)

    async def settled(self) -> None:
        """Waits for every import to end; then nothing may be there that was not there before."""
        with anyio.fail_after(60):
            await self.running.background.idle()
        assert kept(self.state) == self.before

    async def good(self) -> None:
        """A good upload works, and is taken back."""
        answer = await self.post(GOOD_ARCHIVE)
        assert answer.status == 201, answer
        assert [image.id for image in await self.store.images()] == [GOOD.id]
        await self.store.remove_image("good:1")


@asynccontextmanager
async def nothing_left(state: Path, **options: Any) -> AsyncIterator[Uploads]:
    """Uploads while the block is open. Whatever they were: afterwards no row, file, descriptor or thread is left, with
    the server still up, and a good upload works at once; then no task either."""
    async with LocalStore.open(state) as store, served(store, **options) as running:
        uploads = Uploads(store, running, state, kept(state))
        await uploads.good()  # what is opened once per process is open before anything is counted
        await uploads.settled()
        before = held(str(state))
        yield uploads
        await uploads.settled()
        assert running.background.running == 0
        assert await settles(before, str(state)) == []
        await uploads.good()
        await uploads.settled()
        assert await settles(before, str(state)) == []
    left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task() and not task.done()]
    assert left == []
