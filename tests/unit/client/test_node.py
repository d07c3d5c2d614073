"""A connection to a service: what it brought before it broke, and why there is none."""

from __future__ import annotations

import anyio
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from support.faulty import Fault, Faulty

from streamer.client.failure import Transient, Unreachable
from streamer.client.node import Answer, connect
from streamer.client.patience import Limits
from streamer.client.request import archive

REQUEST = archive("container", ["web"])


async def broken(answer: Answer) -> None:
    """Returns once the connection's end has been noticed, with all that came before it still to be read."""
    with anyio.fail_after(10):
        while answer._response.content.exception() is None:
            await anyio.sleep(0.005)


@pytest.mark.parametrize("length", [True, False])
@pytest.mark.parametrize("cut", [0, 1, 3000, 1_200_000])
async def test_what_came_before_the_end_is_kept(
    service: Faulty, content: bytes, quick: Limits, cut: int, length: bool
) -> None:
    service.faults, service.length = [Fault(drop=cut)], length
    async with connect(service.url, quick) as node, await node.open(REQUEST) as answer:
        await broken(answer)
        got = b""
        with pytest.raises(Transient) as caught:
            while data := await answer.read():
                got += data
    assert got == content[:cut]
    of = f" of {len(content)}" if length else ""
    assert str(caught.value.error) == f"{service.url} broke off after {cut} bytes{of}"


async def test_plain_http_where_tls_is_spoken(quick: Limits) -> None:
    application = web.Application()
    async with TestServer(application) as server:
        url = f"https://127.0.0.1:{server.port}"
        async with connect(url, quick) as node:
            with pytest.raises(Unreachable) as caught:
                await node.open(REQUEST)
    shown = str(caught.value)
    assert shown.startswith(f"cannot reach {url}: no TLS with it (")
    assert shown.endswith("): does it speak plain http?")
