"""Health, readiness, metrics, and what a service says that is full or about to end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest
from prometheus_client.parser import text_string_to_metric_families
from support import images
from support.asking import ask, problem
from support.clients import Client
from support.images import file, layer
from support.serving import served
from support.sites import Site

from streamer.errors import Draining, StoreDamaged
from streamer.stores.local.store import LocalStore

BIG = images.image(layer(*(file(f"f{number}", bytes(1 << 20)) for number in range(24))), names=["big:1"])
SAVED = "/v1/images/big:1/archive"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[LocalStore]:
    """One image, larger than all buffers between here and a client."""
    async with LocalStore.open(tmp_path / "state") as opened:
        await opened.import_archive(images.Bytes(images.pack(images.docker(BIG))))
        yield opened


def test_health(site: Site) -> None:
    for path, body in (("/healthz", {"status": "ok"}), ("/readyz", {"status": "ok", "stores": {"local": "ok"}})):
        answer = site.ask(path)
        assert (answer.status, json.loads(answer.body)) == (200, body)


async def test_draining_fails_readiness_and_refuses_exports(store: LocalStore) -> None:
    async with served(store) as running:
        running.health.drain()
        running.exporter.refuse(Draining("the service is shutting down"))
        for target in ("/readyz", SAVED):
            answer = await asyncio.to_thread(ask, running.port, target)
            assert answer.status == 503
            assert int(answer.headers["retry-after"]) > 0
            assert problem(answer)["code"] == "draining"
        assert (await asyncio.to_thread(ask, running.port, "/healthz")).status == 200
        assert (await asyncio.to_thread(ask, running.port, "/v1/images")).status == 200


async def test_as_many_exports_as_allowed(store: LocalStore) -> None:
    async with served(store, limit=2) as running:
        with Client(running.port, receive_buffer=4096) as one, Client(running.port, receive_buffer=4096) as two:

            def both_open() -> None:
                for client in (one, two):
                    client.request(SAVED)
                    assert client.head().status == 200

            await asyncio.to_thread(both_open)
            answer = await asyncio.to_thread(ask, running.port, SAVED)
            assert answer.status == 503
            assert answer.headers["retry-after"] == "5"
            members = problem(answer)
            assert (members["code"], members["retry_after"]) == ("busy", 5)
            assert (await asyncio.to_thread(ask, running.port, SAVED, "HEAD")).status == 503
            unknown = f"{SAVED}?length=unknown"  # opens nothing
            assert (await asyncio.to_thread(ask, running.port, unknown, "HEAD")).status == 200
        with anyio.fail_after(60):
            await running.exporter.idle()
        assert (await asyncio.to_thread(ask, running.port, SAVED)).status == 200


async def test_readiness_fails_with_a_store_that_does_not_answer(store: LocalStore, tmp_path: Path) -> None:
    async with served(store) as running:

        async def broken(_repository: str) -> None:
            raise OSError(5, "Input/output error")

        store.named = broken  # type: ignore[assignment, method-assign]
        answer = await asyncio.to_thread(ask, running.port, "/readyz")
        assert answer.status == 500
        assert problem(answer)["code"] == "internal"
        assert b"Input/output" not in answer.body


def samples(text: bytes) -> dict[tuple[str, tuple[str, ...]], float]:
    """Every sample by its name and the values of its labels."""
    return {
        (sample.name, tuple(sample.labels[key] for key in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


async def test_metrics(store: LocalStore) -> None:
    async with served(store) as running:

        def requests() -> dict[tuple[str, tuple[str, ...]], float]:
            size = len(ask(running.port, SAVED).body)
            ask(running.port, SAVED, "HEAD")
            ask(running.port, "/nothing")
            with Client(running.port, receive_buffer=4096) as client:
                client.request(SAVED)
                client.head()
                during = samples(ask(running.port, "/metrics").body)
                assert during["streamer_open_exports", ()] == 1
            anyio.from_thread.run(running.exporter.idle)
            answer = ask(running.port, "/metrics")
            assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
            found = samples(answer.body)
            assert found["streamer_export_bytes_total", ("image",)] >= size
            return found

        found = await anyio.to_thread.run_sync(requests)
        assert found["streamer_open_exports", ()] == 0
        assert found["streamer_leases", ()] == 0
        assert found["streamer_exports_total", ("image", "complete")] == 1
        assert found["streamer_exports_total", ("image", "client_gone")] == 1
        assert found["streamer_requests_total", ("404",)] == 1
        assert found["streamer_export_seconds_count", ("image",)] == 2


async def test_readiness_tells_which_store_does_not_answer(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    async def named(_: object, repository: str) -> list[object]:
        raise StoreDamaged("streamer.db cannot be read")

    monkeypatch.setattr(LocalStore, "named", named)
    async with served(store) as running:
        answer = await asyncio.to_thread(ask, running.port, "/readyz")
    members = problem(answer)
    assert (answer.status, members["code"], members["stores"]) == (503, "unready", {"local": "store_damaged"})
