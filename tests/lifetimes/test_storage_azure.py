"""Azure's service whose answers are lost: the object is whole and right, whichever answer it was."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from support import storage
from support.faults import Fault, faulty
from support.planned import Planned
from support.storage import ObstoreKept

from streamer.export.exporter import exporter
from streamer.export.plan import Options
from streamer.sinks.delivery import Delivered, Manner, deliver
from streamer.sinks.metadata import target
from streamer.sinks.patience import Patience
from streamer.sinks.storages import Access, storages

PART = 5 << 20
DATA = random.Random(3).randbytes(PART + 1000)
ACCESS = Access(plain=True, patience=Patience(tries=3, first_pause=0.01, longest_pause=0.05))


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObstoreKept]:
    with storage.azurite(tmp_path_factory.mktemp("azurite")) as opened, pytest.MonkeyPatch.context() as patch:
        for name, value in opened.environment.items():
            patch.setenv(name, value)
        yield opened


async def send(kept: ObstoreKept, key: str, data: bytes, *, replace: bool) -> Delivered:
    address, plan = kept.address(key), Planned(data).plan(None, Options())
    async with storages(ACCESS) as places, exporter() as exports:
        return await deliver(
            exports,
            plan,
            await places.of(address),
            lambda size, digest: target(
                address, plan, token="t-1", engine="memory", size=size, digest=digest, replace=replace
            ),
            manner=Manner(PART, 2),
        )


@pytest.mark.parametrize("fault", [Fault.LOST_ANSWER, Fault.ERROR_AFTERWARDS])
@pytest.mark.parametrize("replace", [True, False], ids=["overwrite", "not to overwrite"])
@pytest.mark.parametrize("size", [1000, len(DATA)], ids=["one request", "parts"])
async def test_each_answer_is_lost_once(
    kept: ObstoreKept, monkeypatch: pytest.MonkeyPatch, size: int, replace: bool, fault: Fault
) -> None:
    data = DATA[:size]
    async with faulty(kept.url) as way:
        monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", f"{way.url}/{kept.account}")
        await send(kept, f"{fault}-{size}-{replace}", data, replace=replace)
        for at in range(len(way.calls)):
            way.plan(fault, at)
            key = f"{fault}-{size}-{replace}-{at}"
            made = await send(kept, key, data, replace=replace)
            assert await kept.read(key) == data, way.calls
            assert made.etag == await kept.etag(key), way.calls
            assert await kept.left() == [], way.calls
