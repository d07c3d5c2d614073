"""Clients of S3 whose credentials expired: replaced by another, and closed with the last call that they were making."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import pytest
from aiohttp import web

from streamer.errors import InvalidRequest, NotPermitted
from streamer.sinks import address as addresses
from streamer.sinks.calls import Calls, calls
from streamer.sinks.patience import Patience

EXPIRED = '<?xml version="1.0"?>\n<Error><Code>ExpiredToken</Code><Message>made up</Message></Error>'
PLACE = addresses.parse("s3://bucket/key")


class Storage:
    """Takes objects: those of the key `slow` once `gate` is open, others at once, but the first `refusals`."""

    def __init__(self) -> None:
        self.gate = anyio.Event()
        self.waiting = anyio.Event()
        self.refusals = 0
        self.runner: web.AppRunner

    async def handle(self, request: web.Request) -> web.Response:
        await request.read()
        if request.path.endswith("/slow"):
            self.waiting.set()
            await self.gate.wait()
        elif self.refusals:
            self.refusals -= 1
            return web.Response(status=403, text=EXPIRED, content_type="application/xml")
        return web.Response(headers={"ETag": '"0"'})

    async def until(self, condition: Callable[[int], bool]) -> int:
        """The number of open connections, once it is as wanted; what it is after three seconds if it never is."""
        with anyio.move_on_after(3):
            while not condition(self.connections):
                await anyio.sleep(0.005)
        return self.connections

    @property
    def connections(self) -> int:
        assert self.runner.server is not None
        return len(self.runner.server.connections)


@asynccontextmanager
async def storage(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Storage]:
    made, app = Storage(), web.Application()
    app.router.add_route("*", "/{path:.*}", made.handle)
    made.runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await made.runner.setup()
    site = web.TCPSite(made.runner, "127.0.0.1", 0)
    await site.start()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{made.runner.addresses[0][1]}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    try:
        yield made
    finally:
        await made.runner.cleanup()


async def put(through: Calls, key: str) -> None:
    await through.call("write", PLACE, "put_object", Key=key, body=memoryview(b"x"))


async def test_a_client_that_was_replaced_is_closed_with_its_last_call(monkeypatch: pytest.MonkeyPatch) -> None:
    async with storage(monkeypatch) as there:
        async with calls(path_style=True, patience=Patience()) as through:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(put, through, "slow")
                tasks.start_soon(put, through, "slow")
                await there.waiting.wait()
                there.refusals = 1
                await put(through, "fast")
                # Those of the slow calls, the one that was refused on, and the new client's.
                assert await there.until(lambda number: number == 4) == 4
                there.gate.set()
            assert await there.until(lambda number: number == 1) == 1, "only the new client's is left"
            await put(through, "fast")
            assert there.connections == 1
        assert await there.until(lambda number: number == 0) == 0


async def test_one_that_makes_no_other_call_is_closed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async with storage(monkeypatch) as there, calls(path_style=True, patience=Patience()) as through:
        for _ in range(2):
            there.refusals = 1
            await put(through, "fast")
            assert await there.until(lambda number: number == 1) == 1


async def test_several_calls_that_are_refused_at_once_make_one_new_client(monkeypatch: pytest.MonkeyPatch) -> None:
    async with storage(monkeypatch) as there, calls(path_style=True, patience=Patience()) as through:
        await put(through, "fast")
        there.refusals = 4
        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(put, through, "fast")
        assert len(through._clients) == 1
        assert await there.until(lambda number: number <= 4) <= 4


async def test_new_credentials_that_are_refused_too(monkeypatch: pytest.MonkeyPatch) -> None:
    async with storage(monkeypatch) as there:
        async with calls(path_style=True, patience=Patience()) as through:
            there.refusals = 2
            with pytest.raises(NotPermitted, match="ExpiredToken"):
                await put(through, "fast")
            assert await there.until(lambda number: number == 1) == 1
        assert await there.until(lambda number: number == 0) == 0


async def test_a_call_that_is_cancelled_closes_its_client(monkeypatch: pytest.MonkeyPatch) -> None:
    async with storage(monkeypatch) as there, calls(path_style=True, patience=Patience()) as through:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(put, through, "slow")
            await there.waiting.wait()
            there.refusals = 1
            await put(through, "fast")
            tasks.cancel_scope.cancel()
        assert len(through._clients) == 1
        assert await there.until(lambda number: number == 1) == 1


@pytest.mark.parametrize(("name", "value"), [("AWS_PROFILE", "nope"), ("AWS_ENDPOINT_URL", "localhost:9")])
async def test_settings_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    calls = Calls(path_style=True, patience=Patience())
    with pytest.raises(InvalidRequest, match="the settings for S3"):
        await calls.call("look at", PLACE, "head_object", Key="key")
    await calls.close()
