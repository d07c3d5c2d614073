"""Failures after an answer has begun: nothing that could be taken for a part of its body follows."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from aiohttp import web
from support.clients import Client
from support.serving import served
from support.stores import DirectoryStore

from streamer.errors import Busy
from streamer.web import app


@pytest.mark.parametrize("error", [Busy("the database is locked"), ZeroDivisionError()])
async def test_a_failure_after_the_headers_breaks_the_connection_off(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def begun(request: web.Request, _values: object) -> web.StreamResponse:
        answer = web.StreamResponse()
        answer.enable_chunked_encoding()
        await answer.prepare(request)
        await answer.write(b"first")
        raise error

    routes = tuple(replace(each, handler=begun) if each.path == "/healthz" else each for each in app.ROUTES)
    monkeypatch.setattr(app, "ROUTES", routes)
    async with served(DirectoryStore()) as running:

        def ask() -> tuple[bytes, bool]:
            with Client(running.port) as client:
                client.request("/healthz")
                answer = client.answer()
                return answer.body, answer.complete

        assert await asyncio.to_thread(ask) == (b"first", False)
