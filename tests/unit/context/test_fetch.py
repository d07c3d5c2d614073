"""Files from URLs: which addresses, how much, how long, and what is made of every answer that is not the file."""

from __future__ import annotations

import asyncio
import gzip
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from streamer.context import fetch as fetching
from streamer.context.addresses import Policy, parsed
from streamer.context.fetch import Fetched, Limits, Unchanged, fetch, file_name
from streamer.errors import FetchFailed, InvalidRequest, LimitExceeded, NotPermitted, Stalled, StreamerError

QUICK = Limits(size=1 << 20, connect=60, answer=60, silence=60)
HASTY = Limits(size=1 << 20, connect=1, answer=1, silence=0.3)
"""For what never comes."""
HERE = parsed(["127.0.0.1"])

FORBIDDEN = [
    "127.0.0.1", "127.1.2.3", "0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "172.16.0.1", "172.31.255.254",
    "192.168.0.1", "169.254.169.254", "169.254.0.1", "100.64.0.1", "192.0.0.8", "192.0.2.1", "198.18.0.1",
    "198.51.100.1", "3fff::1", "192.88.99.1", "fe80::5efe:808:808", "fd00::5efe:808:808", "fec0::1",
    "64:ff9b:1:7f00:0:100:808:808",
    "203.0.113.1", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255", "::", "::1", "::127.0.0.1",
    "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::ffff:7f00:1", "::169.254.169.254",
    "64:ff9b::127.0.0.1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::10.0.0.1", "2002:7f00:1::", "2002:a9fe:a9fe::1",
    "2002:c0a8:101::", "2001:0:7f00:1::", "fe80::1", "fe80::1%eth0", "fe80::5efe:10.0.0.1", "fc00::1", "fd00:ec2::254",
    "ff02::1", "2001:db8::1", "100::1", "fe80::200:5efe:192.168.1.1", "nonsense", "", "0x7f.1", "2130706433", "127.1",
]  # fmt: skip
PUBLIC = ["1.1.1.1", "8.8.8.8", "93.184.216.34", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]


@pytest.mark.parametrize("host", FORBIDDEN)
def test_addresses_that_nobody_outside_should_name(host: str) -> None:
    assert not Policy().permits(host)


@pytest.mark.parametrize("host", PUBLIC)
def test_public_addresses(host: str) -> None:
    assert Policy().permits(host)


def test_networks_that_are_allowed_besides() -> None:
    policy = parsed(["10.1.0.0/16", "fd00::/8", "127.0.0.1"])
    assert [policy.permits(each) for each in ("10.1.2.3", "10.2.0.1", "fd12::1", "127.0.0.1", "127.0.0.2")] == [
        True, False, True, True, False,
    ]  # fmt: skip
    assert policy.permits("::ffff:10.1.2.3")
    with pytest.raises(InvalidRequest, match="'nonsense' is no network"):
        parsed(["nonsense"])


@dataclass
class Site:
    """A server that answers whatever it is told, byte by byte."""

    port: int = 0
    answer: Callable[[str], list[bytes | float]] = lambda path: []
    asked: list[str] = field(default_factory=list)
    address: str = "127.0.0.1"

    def url(self, path: str = "/file.tar") -> str:
        return f"http://{self.address}:{self.port}{path}"

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.asked.append(head)
            for part in self.answer(head.split()[1]):
                if isinstance(part, float):
                    await asyncio.sleep(part)
                else:
                    writer.write(part)
                    await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def served(*parts: bytes | float, **answers: list[bytes | float]) -> AsyncIterator[Site]:
    site = Site(answer=lambda path: answers.get(path.strip("/"), list(parts)))
    server = await asyncio.start_server(site.handle, "127.0.0.1", 0)
    site.port = server.sockets[0].getsockname()[1]
    async with server:
        yield site


async def whole(fetched: Fetched) -> bytes:
    data = b""
    while part := await fetched.read():
        data += part
    return data


def ok(body: bytes = b"content", *headers: str, length: int | None = None) -> bytes:
    lines = ["HTTP/1.1 200 OK", f"Content-Length: {len(body) if length is None else length}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def test_a_file() -> None:
    told = ("Last-Modified: Wed, 21 Oct 2015 07:28:00 GMT", 'ETag: "v1"', "Content-Type: application/x-tar; a=b")
    async with served(ok(b"content", *told)) as site, fetch(site.url(), HERE, QUICK) as fetched:
        assert await whole(fetched) == b"content"
        assert (fetched.url, fetched.media_type, fetched.name) == (site.url(), "application/x-tar", b"file.tar")
        assert (fetched.modified, fetched.etag, fetched.size) == (1445412480, '"v1"', 7)
    assert "Accept-Encoding: identity\r\n" in site.asked[0]
    assert "cookie" not in site.asked[0].lower()


async def test_little_is_told() -> None:
    async with served(b"HTTP/1.0 200 OK\r\n\r\nabc") as site, fetch(site.url("/"), HERE, QUICK) as fetched:
        assert await whole(fetched) == b"abc"
        assert (fetched.media_type, fetched.name, fetched.modified, fetched.etag, fetched.size) == (
            "",
            b"",
            None,
            "",
            None,
        )


async def test_the_same_version_is_not_sent_again() -> None:
    async with served(b"HTTP/1.1 304 Not Modified\r\n\r\n") as site:
        with pytest.raises(Unchanged):
            async with fetch(site.url(), HERE, QUICK, etag='"v1"'):
                pass
    assert 'If-None-Match: "v1"\r\n' in site.asked[0]


FAULTS: list[tuple[list[bytes | float], type[StreamerError], str]] = [
    ([b"HTTP/1.1 404 Not Found\r\n\r\nno\x1b[31m such file"], FetchFailed, "answers 404 (no[31m such file)"),
    ([b"HTTP/1.1 206 Partial Content\r\nContent-Length: 1\r\n\r\nx"], FetchFailed, "it answers 206"),
    ([b"HTTP/1.1 304 Not Modified\r\n\r\n"], FetchFailed, "it answers 304"),
    ([b"nonsense\r\n\r\n"], FetchFailed, "cannot fetch"),
    ([], FetchFailed, "cannot fetch"),
    ([5.0], Stalled, "no answer came in"),
    ([b"HTTP/1.1 200 OK\r\nX: ", b"a" * 100_000], FetchFailed, "cannot fetch"),
    ([ok(length=100)], FetchFailed, "broke off after 7 bytes"),
    ([ok(length=2 << 20)], LimitExceeded, "it has 2097152 bytes, more than 1048576"),
    ([b"HTTP/1.1 200 OK\r\n\r\n", *[b"x" * 100_000] * 20], LimitExceeded, "it has more than 1048576 bytes"),
    ([ok(gzip.compress(b"x"), "Content-Encoding: gzip")], FetchFailed, "sent as 'gzip', which was not asked for"),
    ([ok(length=1000), *[0.05, b"x"] * 100], Stalled, "less than 65536 bytes came in 0.3 seconds"),
    ([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\nzz\r\n"], FetchFailed, "not HTTP"),
    ([b"HTTP/1.1 302 Found\r\n\r\n"], NotPermitted, "redirects to"),
    ([b"HTTP/1.1 302 Found\r\nLocation: /again\r\n\r\n"], FetchFailed, "redirects more than 10 times"),
    ([b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\n\r\n"], NotPermitted, "which is not http(s)"),
    ([b"HTTP/1.1 302 Found\r\nLocation: unix:///run/docker.sock\r\n\r\n"], NotPermitted, "which is not http(s)"),
    ([b"HTTP/1.1 302 Found\r\nLocation: http://[::1\r\n\r\n"], FetchFailed, "no URL"),
    (
        [b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/latest/\r\n\r\n"],
        NotPermitted,
        "169.254.169.254 is not",
    ),
    (
        [b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.2:1/\r\n\r\n"],
        NotPermitted,
        "127.0.0.2 is not a public address",
    ),
    ([b"HTTP/1.1 302 Found\r\nLocation: http://localhost:1/\r\n\r\n"], FetchFailed, "cannot fetch http://localhost:1/"),
]


@pytest.mark.parametrize(("parts", "error", "message"), FAULTS, ids=range(len(FAULTS)))
async def test_what_is_no_file(parts: list[bytes | float], error: type[StreamerError], message: str) -> None:
    async with served(*parts) as site:
        with pytest.raises(error) as caught:
            limits = HASTY if error is Stalled else QUICK
            async with asyncio.timeout(60), fetch(site.url(), HERE, limits) as fetched:
                await whole(fetched)
    assert message in str(caught.value)
    assert str(caught.value).startswith("cannot fetch http://")


async def test_redirects_keep_the_first_name_and_lose_passwords() -> None:
    async with served(ok()) as other, served() as site:
        other.address = "localhost"
        site.answer = lambda path: [f"HTTP/1.1 301 x\r\nLocation: {other.url('/other')}\r\n\r\n".encode()]
        start = f"http://user:secret@127.0.0.1:{site.port}/name.txt"
        async with fetch(start, parsed(["127.0.0.1", "::1"]), QUICK) as fetched:
            assert await whole(fetched) == b"content"
            assert (fetched.name, fetched.url) == (b"name.txt", other.url("/other"))
    assert "Authorization: Basic" in site.asked[0]
    assert "authorization" not in other.asked[0].lower()


async def test_no_message_tells_a_password() -> None:
    async with served(b"HTTP/1.1 500 x\r\n\r\n") as site:
        for url in (
            f"http://user:secret@127.0.0.1:{site.port}/",
            "http://user:secret@10.0.0.1/",
            "ftp://user:secret@x/",
        ):
            with pytest.raises(StreamerError) as caught:
                async with fetch(url, HERE, QUICK):
                    pass
            assert "secret" not in str(caught.value)


async def test_a_name_that_answers_differently_the_second_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """What counts is the address of the connection, not an earlier look-up."""
    answers = ["127.0.0.1", "127.0.0.2"]

    def look_up(host: str, port: int, *args: object, **more: object) -> list[tuple[object, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (answers.pop(0), port))]

    async with served(b"HTTP/1.1 302 x\r\nLocation: /second\r\n\r\n") as site:
        monkeypatch.setattr(socket, "getaddrinfo", look_up)
        with pytest.raises(NotPermitted, match=r"127\.0\.0\.2 is not a public address"):
            async with fetch(f"http://rebound.example:{site.port}/", HERE, QUICK):
                pass
    assert answers == []
    assert len(site.asked) == 1


async def test_several_addresses_of_which_none_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, 80)) for each in ("10.0.0.1", "192.168.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **more: found)
    with pytest.raises(NotPermitted, match=r"10\.0\.0\.1 is not a public address"):
        async with fetch("http://inside.example/", Policy(), QUICK):
            pass


@pytest.mark.parametrize(
    "url",
    ["", "x", "ftp://a/", "file:///etc/passwd", "unix:///s", "http://", "http:///x", "http://a b/", "http://a\n/",
     "http://[::1", "http://" + "a" * 9000, "HTTPS:/x"],
)  # fmt: skip
async def test_what_is_no_url(url: str) -> None:
    with pytest.raises(InvalidRequest, match="is no URL that can be fetched"):
        async with fetch(url, HERE, QUICK):
            pass


@pytest.mark.parametrize(
    ("url", "disposition", "name"),
    [
        ("https://www.example.com/", "", b""),
        ("https://www.example.com", "", b""),
        ("https://www.example.com/xyz", "", b"xyz"),
        ("https://www.example.com/xyz.html", "", b"xyz.html"),
        ("https://www.example.com/xyz/", "", b""),
        ("https://www.example.com/xyz/uvw.html", "", b"uvw.html"),
        ("https://www.example.com/xyz/uvw.html?a=/b#/c", "", b"uvw.html"),
        ("https://www.example.com/", 'attachment; filename="/xyz/uvw"', b"uvw"),
        ("https://www.example.com/a", 'attachment; filename="b"', b"a"),
        ("https://www.example.com/", 'attachment; filename=".."', b""),
        ("https://www.example.com/", 'attachment; filename="..\\\\..\\\\x"', b"x"),
        ("https://www.example.com/%2e%2e", "", b""),
        ("https://www.example.com/a%2Fb", "", b"b"),
        ("https://www.example.com/%C3%A9%20x", "", "é x".encode()),
        ("https://www.example.com/", "nonsense;;;", b""),
    ],
)
def test_names(url: str, disposition: str, name: bytes) -> None:
    assert file_name(url, disposition) == name


async def test_nothing_stays_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither after a cancellation in the middle nor after an error: the server sees the connection end."""
    began, ended = asyncio.Event(), asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(ok(length=1000))
        began.set()
        if await reader.read() == b"":
            ended.set()
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    async with server:

        async def reading() -> None:
            async with fetch(url, HERE, Limits()) as fetched:
                await whole(fetched)

        task = asyncio.create_task(reading())
        await asyncio.wait_for(began.wait(), 60)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(ended.wait(), 60)
    assert fetching._MOST == 10
