"""`POST /v1/contexts` of git repositories: what comes, and what is left of it when its client does not wait."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web
from support import sites
from support.asking import problem
from support.clients import Client
from support.gits import HERE, listening, repository, served
from support.sites import Site

JSON = "Content-Type: application/json\r\n"


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("git") / "state"


@pytest.fixture(scope="module")
def site(state: Path) -> Iterator[Site]:
    with sites.site(state, fetch=HERE) as made:
        yield made


@contextlib.contextmanager
def wanted(site: Site, source: str) -> Iterator[Client]:
    body = json.dumps({"source": source}).encode()
    with Client(site.port) as client:
        client.request("/v1/contexts", "POST", f"{JSON}Content-Length: {len(body)}\r\n")
        client.send(body)
        yield client


def test_a_directory_of_a_branch(site: Site, state: Path, tmp_path: Path) -> None:
    repository(tmp_path / "one.git", {"Dockerfile": "FROM scratch\n", "sub/Dockerfile": "FROM scratch\n", "sub/b": "x"})
    with site.portal.wrap_async_context_manager(served(tmp_path)) as url:
        with wanted(site, f"{url}/one.git#main:sub") as client:
            answer = client.answer()
        assert answer.status == 200
        assert answer.complete
        with tarfile.open(fileobj=io.BytesIO(answer.body)) as archive:
            assert archive.getnames() == ["Dockerfile", "b"]
        with wanted(site, f"{url.replace('://', '://u:secret@')}/one.git#none") as client:
            answer = client.answer()
    assert problem(answer)["code"] == "fetch_failed"
    assert b"secret" not in answer.body
    assert not list((state / "staging").iterdir())


@pytest.mark.parametrize("source", ["git://127.0.0.1/x", "git@127.0.0.1:x", "git://127.0.0.1/x#:sub"])
def test_transports_that_a_service_does_not_use(site: Site, source: str) -> None:
    with wanted(site, source) as client:
        answer = client.answer()
    assert answer.status == 403
    assert "only https, http may be used" in problem(answer)["detail"]


def test_a_client_that_leaves_while_git_waits(site: Site, state: Path) -> None:
    """Git is ended, its connection with it, and the clone is gone."""
    came, left = threading.Event(), threading.Event()

    async def handle(request: web.Request) -> web.StreamResponse:
        came.set()
        try:
            await asyncio.Event().wait()
            raise AssertionError
        finally:
            left.set()

    with site.portal.wrap_async_context_manager(listening(handle)) as url:
        with wanted(site, f"{url}/x.git"):
            assert came.wait(60)
            assert list((state / "staging").iterdir())
        assert left.wait(60)
        limit = time.monotonic() + 60
        while list((state / "staging").iterdir()):
            assert time.monotonic() < limit
            time.sleep(0.02)
