"""Pages of a browser on this machine get nothing from a service on loopback, and can change nothing."""

from __future__ import annotations

import asyncio

import pytest
from support.clients import Client
from support.serving import served
from support.stores import DirectoryStore

from streamer.web.origin import _ours


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("localhost:8080", 200),
        ("127.0.0.1:1", 200),
        ("127.8.9.10", 200),
        ("[::1]:8080", 200),
        ("evil.example", 403),
        ("evil.example:8080", 403),
        ("localhost.evil.example", 403),
        ("10.0.0.1", 403),
        ("[::ffff:10.0.0.1]", 403),
        ("[", 403),
        ("localhost@evil.example", 403),
    ],
)
async def test_only_this_machines_names_are_answered(host: str, status: int) -> None:
    async with served(DirectoryStore()) as running:

        def ask() -> int:
            with Client(running.port) as client:
                client.send(f"GET /v1/containers HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
                return client.answer().status

        assert await asyncio.to_thread(ask) in (status, 400 if status == 403 else status)


@pytest.mark.parametrize(
    ("origin", "refused"), [("http://evil.example", True), ("null", True), ("http://localhost:3000", False)]
)
async def test_a_foreign_page_cannot_upload(origin: str, refused: bool) -> None:
    async with served(DirectoryStore()) as running:

        def ask() -> int:
            with Client(running.port) as client:
                client.request(
                    "/v1/images?nonsense=1", method="POST", headers=f"Origin: {origin}\r\nContent-Length: 0\r\n"
                )
                return client.answer().status

        assert await asyncio.to_thread(ask) == (403 if refused else 400)


def test_names_that_were_allowed() -> None:
    assert _ours("//node.internal:8080", ("node.internal",))
    assert not _ours("//node.internal.evil:8080", ("node.internal",))


def test_the_address_that_was_reached_is_this_machines() -> None:
    for host, reached, ours in (("10.0.0.5:8443", "10.0.0.5", True), ("10.0.0.6", "10.0.0.5", False)):
        assert _ours(f"//{host}", (reached,)) == ours
    assert _ours("//[fe80::1]:80", ("fe80::1",))


@pytest.mark.parametrize(
    ("headers", "query", "status"),
    [
        ("Sec-Fetch-Site: cross-site\r\n", "?pause=true", 403),
        ("Sec-Fetch-Site: same-site\r\n", "?pause=true", 403),
        ("Origin: http://evil.example\r\n", "?pause=true", 403),
        ("Sec-Fetch-Site: none\r\n", "?pause=true", 404),
        ("", "?pause=true", 404),
        ("Sec-Fetch-Site: cross-site\r\n", "", 404),
    ],
)
async def test_a_foreign_page_cannot_pause_a_container(headers: str, query: str, status: int) -> None:
    """An image of any page asks for it with a plain GET."""
    async with served(DirectoryStore()) as running:

        def ask() -> int:
            with Client(running.port) as client:
                client.request(f"/v1/containers/web/archive{query}", headers=headers)
                return client.answer().status

        assert await asyncio.to_thread(ask) == status
