"""Lines of a build, while it goes on: what fails before the first one is a problem, what fails later is a line."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp
import anyio
import pytest
from aiohttp import web

from streamer.build.progress import Say, stream
from streamer.errors import ConsumerGone, InvalidRequest, NotFound, StreamerError
from streamer.export.background import Background, background
from streamer.web.builds import told

Work = Callable[[Say], Awaitable[object]]


@asynccontextmanager
async def served(work: Work, limit: float = 30) -> AsyncIterator[tuple[str, Background]]:
    """Where a server answers with the work, and where that runs; a failure before the first byte is a 400."""

    async def handler(request: web.Request) -> web.StreamResponse:
        try:
            return await told(request, running, limit, work)
        except StreamerError as error:
            return web.Response(status=400, text=error.code)

    app = web.Application()
    app.router.add_get("/", handler)
    async with background() as running:
        runner = web.AppRunner(app, handler_cancellation=True)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}/", running
        finally:
            await runner.cleanup()


async def asked(url: str) -> tuple[int, bytes]:
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return answer.status, await answer.read()


def lines(body: bytes) -> list[object]:
    assert body.endswith(b"\r\n")
    return [json.loads(line) for line in body.split(b"\r\n")[:-1]]


async def test_lines_come_as_they_are_said() -> None:
    heard = anyio.Event()

    async def work(say: Say) -> None:
        await say(stream("one"))
        await heard.wait()
        await say(stream("two"))

    async with served(work) as (url, _), aiohttp.ClientSession() as session, session.get(url) as answer:
        assert answer.status == 200
        assert answer.content_type == "application/json"
        assert await answer.content.readline() == b'{"stream": "one\\n"}\r\n'
        heard.set()
        assert await answer.content.read() == b'{"stream": "two\\n"}\r\n'


async def test_a_failure_before_the_first_line_has_a_status() -> None:
    async def work(say: Say) -> None:
        raise NotFound("nothing there")

    async with served(work) as (url, _):
        assert await asked(url) == (400, b"not_found")


async def test_a_failure_after_it_is_the_last_line() -> None:
    async def work(say: Say) -> None:
        await say(stream("one"))
        raise InvalidRequest("line 7: no")

    async with served(work) as (url, _):
        status, body = await asked(url)
    assert status == 200
    assert lines(body) == [
        {"stream": "one\n"},
        {"errorDetail": {"message": "line 7: no", "code": "invalid_request"}, "error": "line 7: no"},
    ]


async def test_many_lines() -> None:
    async def work(say: Say) -> None:
        for number in range(1000):
            await say(stream(str(number)))

    async with served(work) as (url, _):
        _, body = await asked(url)
    assert lines(body) == [{"stream": f"{number}\n"} for number in range(1000)]


async def test_work_that_says_nothing() -> None:
    async def work(say: Say) -> None:
        pass

    async with served(work) as (url, _):
        assert await asked(url) == (200, b"")


async def test_an_error_of_ours_breaks_the_body_off() -> None:
    async def work(say: Say) -> None:
        await say(stream("one"))
        raise ZeroDivisionError

    async with served(work) as (url, _):
        with pytest.raises(aiohttp.ClientPayloadError):
            await asked(url)


async def test_a_client_that_leaves_ends_the_build_at_its_next_line() -> None:
    outcome: asyncio.Future[type[BaseException]] = asyncio.get_running_loop().create_future()
    left = anyio.Event()

    async def work(say: Say) -> None:
        await say(stream("one"))
        await left.wait()
        try:
            while True:
                await say(stream("more"))
                await anyio.sleep(0)
        except BaseException as error:
            outcome.set_result(type(error))
            raise

    async with served(work) as (url, running):
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            await answer.content.readline()
        left.set()
        assert await asyncio.wait_for(outcome, 30) is ConsumerGone
        with anyio.fail_after(30):
            await running.idle()


async def test_a_client_that_takes_nothing_is_left() -> None:
    outcome: asyncio.Future[type[BaseException]] = asyncio.get_running_loop().create_future()

    async def work(say: Say) -> None:
        try:
            while True:
                await say(stream("x" * 65_536))
        except BaseException as error:
            outcome.set_result(type(error))
            raise

    async with served(work, limit=0.2) as (url, running):
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rsplit(":", 1)[1].strip("/")), limit=1)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert await asyncio.wait_for(outcome, 60) is ConsumerGone
        writer.close()
        with anyio.fail_after(30):
            await running.idle()
    assert reader.exception() is None or isinstance(reader.exception(), ConnectionError)
