"""Git repositories, and an http server that serves them with git's own backend."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from aiohttp import web

from streamer.context import git as gits
from streamer.context.addresses import Policy, parsed
from streamer.context.git import Limits, checked_out

HERE = parsed(["127.0.0.1"])


def git(place: Path, *arguments: str | Path, given: str = "") -> str:
    environment = {
        "PATH": os.defpath, "HOME": os.devnull, "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b",
    }  # fmt: skip
    command = ["git", "-c", "protocol.file.allow=always", "-c", "init.defaultBranch=main", *map(str, arguments)]
    done = subprocess.run(command, cwd=place, env=environment, input=given, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def repository(place: Path, files: dict[str, str]) -> Path:
    """A new repository with one commit of these files; a second one of the same name may follow."""
    if not place.exists():
        place.mkdir(parents=True)
        git(place, "init", "-q")
    for name, text in files.items():
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    git(place, "add", "-A")
    git(place, "commit", "-q", "-m", "x")
    git(place, "update-server-info")
    return place


@asynccontextmanager
async def served(root: Path, asked: list[web.Request] | None = None, dumb: bool = False) -> AsyncIterator[str]:
    """The base URL of every repository below `root`."""

    async def handle(request: web.Request) -> web.StreamResponse:
        if asked is not None:
            asked.append(request)
        if dumb:
            path = root / request.path.lstrip("/")
            return web.FileResponse(path) if path.is_file() else web.Response(status=404)
        environment = {
            "PATH": os.defpath, "GIT_PROJECT_ROOT": str(root), "GIT_HTTP_EXPORT_ALL": "1", "PATH_INFO": request.path,
            "QUERY_STRING": request.query_string, "REQUEST_METHOD": request.method, "HOME": os.devnull,
            "CONTENT_TYPE": request.headers.get("Content-Type", ""), "GIT_CONFIG_NOSYSTEM": "1",
            "HTTP_CONTENT_ENCODING": request.headers.get("Content-Encoding", ""),
            "HTTP_GIT_PROTOCOL": request.headers.get("Git-Protocol", ""), "REMOTE_ADDR": "127.0.0.1",
            "GIT_CONFIG_COUNT": "2", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*",
            "GIT_CONFIG_KEY_1": "uploadpack.allowAnySHA1InWant", "GIT_CONFIG_VALUE_1": "true",
        }  # fmt: skip
        body = await request.read()
        process = await asyncio.create_subprocess_exec(
            "git", "http-backend", stdin=-1, stdout=-1, stderr=-3, env=environment
        )
        output, _ = await process.communicate(body)
        head, _, rest = output.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n") if ": " in line)
        status = int(headers.pop("Status", "200").split()[0])
        return web.Response(status=status, headers=headers, body=rest)

    async with listening(handle) as url:
        yield url


@asynccontextmanager
async def redirecting(target: str) -> AsyncIterator[str]:
    """The base URL of a server that answers everything with a redirect."""

    async def handle(request: web.Request) -> web.StreamResponse:
        raise web.HTTPFound(target + request.path_qs.partition(".git")[2])

    async with listening(handle) as url:
        yield url


@asynccontextmanager
async def listening(handle: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncIterator[str]:
    app = web.Application(client_max_size=1 << 30, handler_args={"auto_decompress": False})
    app.router.add_route("*", "/{rest:.*}", handle)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@contextmanager
def daemon(root: Path) -> Iterator[str]:
    """The base URL of git's own server, which serves every repository below `root`."""
    command = ["git", "daemon", "--inetd", "--export-all", f"--base-path={root}", str(root)]
    environment = {"PATH": os.defpath, "HOME": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_COUNT": "1"}
    environment |= {"GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*"}

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                subprocess.run(command, stdin=connection, stdout=connection, env=environment, timeout=120)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"git://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


async def files(source: str, place: Path, policy: Policy = HERE, limits: Limits | None = None) -> dict[str, str]:
    """What is checked out, but for what is git's own."""
    place.mkdir(exist_ok=True)
    async with checked_out(gits.parsed(source), place, policy, limits or Limits()) as found:
        return {
            str(path.relative_to(found)): path.read_text()
            for path in sorted(found.rglob("*"))
            if path.is_file() and ".git" not in path.relative_to(found).parts
        }
