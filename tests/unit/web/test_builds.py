"""Lines of a build, while it goes on: what fails before the first one is a problem, what fails later is a line."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import anyio
import anyio.from_thread
import pytest
from aiohttp import web
from support import images, sites
from support.asking import problem
from support.clients import Answer, Client
from support.images import directory, file, layer
from support.keys import Keys, scope
from support.sites import Site

from streamer.access.scope import EVERYTHING, READING, Kind
from streamer.build.progress import Say, stream
from streamer.context.addresses import parsed
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
        assert await asyncio.wait_for(outcome, 60) is ConsumerGone
        with anyio.fail_after(60):
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
        with anyio.fail_after(60):
            await running.idle()
    assert reader.exception() is None or isinstance(reader.exception(), ConnectionError)


# The route

HERE = parsed(["127.0.0.1"])

TREE = (directory("dir/"), file("dir/a", b"a"), file("one", b"1"))


def context(text: str, *more: images.Member, name: str = "Dockerfile") -> bytes:
    return layer(file(name, text.encode()), *TREE, *more)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    made = Keys(tmp_path_factory.mktemp("keys") / "tokens")
    made.add("all", EVERYTHING)
    made.add("build", scope([Kind.BUILD]))
    made.add("reading", scope(READING))
    made.add("elsewhere", scope([Kind.BUILD], stores=["docker"]))
    made.add("team", scope([Kind.BUILD], names=["team/*"]))
    return made


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, keys: Keys) -> Iterator[Site]:
    state = tmp_path_factory.mktemp("site") / "state"
    with sites.site(state, keys=keys.watched(), max_import_bytes=1 << 20, upload_timeout=60, fetch=HERE) as opened:
        yield opened
        for _ in range(6000):
            if not os.listdir(state / "staging"):
                break
            time.sleep(0.01)
        assert os.listdir(state / "staging") == []
        assert opened.running.background.running == 0


def post(site: Site, keys: Keys, data: bytes, query: str = "", key: str = "all") -> Answer:
    return site.ask(f"/v1/builds{query}", "POST", keys.header(key), data)


def told_of(answer: Answer) -> list[Any]:
    assert answer.status == 200, answer
    assert answer.complete
    assert answer.headers["content-type"] == "application/json"
    return lines(answer.body)


@pytest.mark.parametrize("compression", images.COMPRESS)
def test_a_context_in_any_compression(site: Site, keys: Keys, compression: str) -> None:
    data = images.COMPRESS[compression](context("FROM two\nARG v\nCOPY dir one /x/\nLABEL a=$v"))
    query = "?t=built:1&t=other&buildargs=%7B%22v%22%3A%222%22%7D&labels=%7B%22l%22%3A%22m%22%7D"
    said = told_of(post(site, keys, data, query))
    assert said[0] == {"stream": "Step 1/5 : FROM two\n"}
    (identity,) = [line["aux"]["ID"] for line in said if "aux" in line]
    assert said[-3:] == [
        {"stream": f"Successfully built {identity[7:19]}\n"},
        {"stream": "Successfully tagged built:1\n"},
        {"stream": "Successfully tagged other:latest\n"},
    ]
    made = site.call(site.store.image, "built:1")
    assert made.id == identity
    assert made.config.value["config"]["Labels"] == {"a": "2", "l": "m"}


def test_a_dockerfile_alone(site: Site, keys: Keys) -> None:
    said = told_of(post(site, keys, b"FROM two\nLABEL a=b\nCOPY one /"))
    assert said[-1]["errorDetail"]["code"] == "invalid_request"
    assert said[-1]["error"] == "Dockerfile, line 3: there is no build context to copy from"


def test_another_dockerfile_and_target(site: Site, keys: Keys) -> None:
    data = context("FROM scratch AS a\nCOPY one /\nFROM nothing", name="sub/File")
    said = told_of(post(site, keys, data, "?dockerfile=sub/File&target=a&nocache=true"))
    assert said[0] == {"stream": "Step 1/2 : FROM scratch AS a\n"}
    assert said[-1]["stream"].startswith("Successfully built")


BEFORE = {
    "run": ("FROM two\nRUN x", "", 422, "unsupported", "Dockerfile, line 2: 'RUN x'"),
    "no base": ("FROM nothing", "", 404, "not_found", "Dockerfile, line 1: "),
    "malformed": ("FROM two\nFOO", "", 400, "invalid_request", "Dockerfile, line 2: "),
    "no dockerfile": ("FROM two", "?dockerfile=no", 404, "not_found", "no"),
    "a wrong name": ("FROM two", "?t=A", 400, "invalid_reference", "'A'"),
    "a wrong argument": ("FROM two", "?buildargs=%5B%5D", 400, "invalid_request", "buildargs"),
    "an unknown parameter": ("FROM two", "?pull=1", 400, "invalid_request", "pull"),
    "no stage": ("FROM two", "?target=x", 404, "not_found", "no stage 'x'"),
}


@pytest.mark.parametrize("name", BEFORE)
def test_what_fails_before_anything_is_said(site: Site, keys: Keys, name: str) -> None:
    text, query, status, code, message = BEFORE[name]
    answer = post(site, keys, context(text), query)
    assert answer.status == status
    members = problem(answer)
    assert members["code"] == code
    assert message in members["detail"]


def test_what_fails_later_is_the_last_line(site: Site, keys: Keys) -> None:
    said = told_of(post(site, keys, context("FROM two\nLABEL later=1\nCOPY missing /"), "?t=never&forcerm=true"))
    assert said[0] == {"stream": "Step 1/3 : FROM two\n"}
    assert said[-1]["errorDetail"]["code"] == "not_found"
    assert not any("aux" in line for line in said)
    assert site.ask("/v1/images/never/rootfs", headers=keys.header("all")).status == 404


@dataclass
class Remote:
    """A server of contexts; `typed` is the Content-Type of each."""

    port: int
    typed: str = "application/x-tar"

    def query(self, path: str) -> str:
        return f"?remote=http%3A%2F%2F127.0.0.1%3A{self.port}/{path}"


FILES = {"tar": context("FROM two\nCOPY one /"), "cut": context("FROM two")[:1500], "text": b"FROM two\nLABEL a=b\n"}


@pytest.fixture
def remote() -> Iterator[Remote]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            data = FILES.get(self.path[1:])
            self.send_response(404 if data is None else 200)
            self.send_header("Content-Type", known.typed)
            self.send_header("Content-Length", str(len(data or b"")))
            self.end_headers()
            self.wfile.write(data or b"")

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        known = Remote(server.server_address[1])
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield known
        server.shutdown()
        thread.join()


REMOTE: dict[str, tuple[str, str, int]] = {
    "an archive": ("tar", "application/x-tar", 200),
    "an archive of no type": ("tar", "application/octet-stream", 200),
    "text": ("text", "text/plain; charset=utf-8", 200),
    "text of no type": ("text", "application/octet-stream", 200),
    "a page": ("text", "text/html", 422),
    "nothing": ("none", "text/plain", 502),
    "cut": ("cut", "application/x-tar", 400),
}


@pytest.mark.parametrize("name", REMOTE)
def test_a_context_from_a_url(site: Site, keys: Keys, remote: Remote, name: str) -> None:
    path, remote.typed, status = REMOTE[name]
    answer = post(site, keys, b"", remote.query(path))
    assert answer.status == status, answer
    if status == 200:
        assert lines(answer.body)[-1]["stream"].startswith("Successfully built")  # type: ignore[index]


@pytest.mark.parametrize(
    "url", ["http://10.0.0.1/x", "file:///etc/passwd", "/etc", "-", "http://10.0.0.1/y.git", "git@x:y"]
)
def test_urls_that_are_not_fetched(site: Site, keys: Keys, url: str) -> None:
    answer = post(site, keys, b"", f"?remote={quote(url, safe='')}")
    assert answer.status in (400, 403, 422)


def test_a_service_that_fetches_nothing(tmp_path: Path, remote: Remote) -> None:
    with sites.site(tmp_path / "state") as opened:
        answer = opened.ask(f"/v1/builds{remote.query('tar')}", "POST")
        assert (answer.status, problem(answer)["code"]) == (403, "not_permitted")


BAD: dict[str, tuple[bytes, int, str]] = {
    "cut": (context("FROM two")[:1500], 400, "invalid_archive"),
    "a name that leads out": (context("FROM two", file("../x", b"x")), 400, "invalid_archive"),
    "a bomb": (images.COMPRESS["gzip"](context("FROM two", file("x", bytes(2 << 20)))), 413, "limit_exceeded"),
    "nothing": (b"", 400, "invalid_request"),
}


@pytest.mark.parametrize("name", BAD)
def test_contexts_that_are_refused(site: Site, keys: Keys, name: str) -> None:
    data, status, code = BAD[name]
    answer = post(site, keys, data)
    assert (answer.status, problem(answer)["code"]) == (status, code)


def test_an_upload_that_breaks_off(site: Site, keys: Keys) -> None:
    data = context("FROM two\nCOPY one /broken")
    with Client(site.port) as client:
        client.send(
            b"POST /v1/builds?t=broken HTTP/1.1\r\nHost: localhost\r\n"
            + keys.header("all").encode()
            + b"Content-Length: %d\r\n\r\n" % len(data)
            + data[: len(data) // 2]
        )
    with anyio.from_thread.start_blocking_portal() as portal:
        portal.call(_idle, site)
    assert site.ask("/v1/images/broken/rootfs", headers=keys.header("all")).status == 404


async def _idle(site: Site) -> None:
    with anyio.fail_after(60):
        while site.running.background.running:
            await anyio.sleep(0.01)


def test_too_many_at_once(site: Site, keys: Keys) -> None:
    data = context("FROM two\nLABEL many=1")
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            client = stack.enter_context(Client(site.port))
            client.send(
                b"POST /v1/builds HTTP/1.1\r\nHost: localhost\r\n"
                + keys.header("all").encode()
                + b"Content-Length: %d\r\n\r\n" % len(data)
                + data[:700]
            )
        deadline = time.monotonic() + 60
        while (answer := post(site, keys, data)).status != 503:
            assert time.monotonic() < deadline
        assert problem(answer)["code"] == "busy"
        assert answer.headers["retry-after"] == "5"
    with anyio.from_thread.start_blocking_portal() as portal:
        portal.call(_idle, site)
    # The last one's place is free a moment after it has ended.
    deadline = time.monotonic() + 60
    while (answer := post(site, keys, data)).status == 503:
        assert time.monotonic() < deadline
    assert answer.status == 200


SCOPES: dict[str, tuple[str, str, str, int]] = {
    "a build": ("build", "FROM two", "", 200),
    "a token for reading": ("reading", "FROM two", "", 403),
    "another store": ("elsewhere", "FROM two", "", 403),
    "no name": ("team", "FROM scratch\nLABEL a=b", "", 403),
    "a name of others": ("team", "FROM scratch\nLABEL a=b", "?t=mine", 403),
    "one of two": ("team", "FROM scratch\nLABEL a=b", "?t=team/x&t=mine", 403),
    "an allowed name": ("team", "FROM scratch\nLABEL a=b", "?t=team/x", 200),
    "a base of others": ("team", "FROM two", "?t=team/x", 403),
    "files of others": ("team", "FROM scratch\nCOPY --from=two /two /", "?t=team/x", 403),
    "an allowed base": ("team", "FROM team/app/one:1", "?t=team/x", 200),
}


@pytest.mark.parametrize("name", SCOPES)
def test_scopes(site: Site, keys: Keys, name: str) -> None:
    key, text, query, status = SCOPES[name]
    answer = post(site, keys, context(text), query, key)
    assert answer.status == status, answer
    if status == 403:
        assert problem(answer)["code"] == "forbidden"
