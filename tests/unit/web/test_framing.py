"""What is not HTTP as RFC 9112 has it: refused by a problem, the connection closed, nothing left to smuggle with."""

from __future__ import annotations

import logging

import pytest
from support.asking import problem
from support.clients import Client
from support.sites import Site

HOST = b"Host: localhost\r\n"
GET = b"GET /healthz HTTP/1.1\r\n" + HOST
POST = b"POST /v1/images HTTP/1.1\r\n" + HOST
NEXT = b"GET /smuggled HTTP/1.1\r\n" + HOST + b"\r\n"

MALFORMED: dict[str, bytes] = {
    "URL of 200 kB": b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
    "query of 200 kB": b"GET /healthz?" + b"a" * 200_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
    "header of 200 kB": GET + b"X: " + b"a" * 200_000 + b"\r\n\r\n",
    "header name of 200 kB": GET + b"X" * 200_000 + b": a\r\n\r\n",
    "10,000 headers": GET + b"".join(b"X-%d: a\r\n" % number for number in range(10_000)) + b"\r\n",
    "length and chunked": POST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + NEXT,
    "chunked and length": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n" + NEXT,
    "two lengths": POST + b"Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcd" + NEXT,
    "two equal lengths": POST + b"Content-Length: 4\r\nContent-Length: 4\r\n\r\nabcd" + NEXT,
    "a list of lengths": POST + b"Content-Length: 4, 4\r\n\r\nabcd" + NEXT,
    "negative length": POST + b"Content-Length: -4\r\n\r\nabcd" + NEXT,
    "length with a sign": POST + b"Content-Length: +4\r\n\r\nabcd" + NEXT,
    "hexadecimal length": POST + b"Content-Length: 0x4\r\n\r\nabcd" + NEXT,
    "length of 2^64": POST + b"Content-Length: 18446744073709551616\r\n\r\nabcd" + NEXT,
    "unknown transfer coding": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + NEXT,
    "chunked twice": POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n" + NEXT,
    "chunked is not the last": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "transfer coding with a tab": POST + b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n" + NEXT,
    "no host": b"GET /healthz HTTP/1.1\r\n\r\n" + NEXT,
    "two hosts": GET + HOST + b"\r\n" + NEXT,
    "folded header": GET + b"X: a\r\n b\r\n\r\n" + NEXT,
    "space before the colon": GET + b"X : a\r\n\r\n" + NEXT,
    "header without colon": GET + b"Xa\r\n\r\n" + NEXT,
    "header without name": GET + b": a\r\n\r\n" + NEXT,
    "NUL in a header": GET + b"X: a\0b\r\n\r\n" + NEXT,
    "lone CR in a header": GET + b"X: a\rb\r\n\r\n" + NEXT,
    "bare LF": b"GET /healthz HTTP/1.1\nHost: localhost\n\n" + NEXT,
    "target without slash": b"GET * HTTP/1.1\r\n" + HOST + b"\r\n",
    "raw bytes in the target": b"GET /\xff HTTP/1.1\r\n" + HOST + b"\r\n",
    "space in the target": b"GET /a b HTTP/1.1\r\n" + HOST + b"\r\n",
    "no target": b"GET HTTP/1.1\r\n" + HOST + b"\r\n",
    "unknown method": b"BREW /healthz HTTP/1.1\r\n" + HOST + b"\r\n",
    "lower-case method": b"get /healthz HTTP/1.1\r\n" + HOST + b"\r\n",
    "HTTP/9.9": b"GET /healthz HTTP/9.9\r\n" + HOST + b"\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": bytes.fromhex("16030102000100") + bytes(300),
    "SSH": b"SSH-2.0-OpenSSH_9.9\r\n",
    "zeros": bytes(4096),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_malformed_is_refused_and_the_connection_closed(
    site: Site, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO), Client(site.port) as client:
        try:
            client.send(MALFORMED[name])
        except ConnectionError:
            pass  # refused before all of it was sent
        answer = client.answer()
        members = problem(answer)
        assert (answer.status, members["code"]) == (400, "malformed")
        assert "not well-formed" in members["detail"]
        assert len(members["detail"]) < 400
        assert answer.headers["connection"] == "close"
        assert answer.headers["server"].startswith("streamer/")
        assert client.read(1) == b"", "what followed was taken for a request"
    assert caplog.records == [], "whoever can connect could fill the log"
    assert site.ask("/healthz").status == 200


WELL_FORMED: dict[str, tuple[bytes, int]] = {
    "100 headers": (GET + b"".join(b"X-%d: a\r\n" % number for number in range(100)) + b"\r\n", 200),
    "absolute target": (b"GET http://localhost/healthz HTTP/1.1\r\n" + HOST + b"\r\n", 200),
    "absolute target elsewhere": (b"GET http://elsewhere/healthz HTTP/1.1\r\n" + HOST + b"\r\n", 403),
    "absolute target, odd scheme": (b"GET gopher://elsewhere/healthz HTTP/1.1\r\n" + HOST + b"\r\n", 403),
    "absolute target, Host elsewhere": (b"GET http://localhost/healthz HTTP/1.1\r\nHost: elsewhere\r\n\r\n", 403),
    "absolute target with a user": (b"GET http://localhost@elsewhere/healthz HTTP/1.1\r\n" + HOST + b"\r\n", 403),
    "CONNECT": (b"CONNECT elsewhere:80 HTTP/1.1\r\n" + HOST + b"\r\n", 404),
    "upgrade to HTTP/2": (
        GET + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: a\r\n\r\n",
        200,
    ),
    "upgrade to a websocket": (GET + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n", 200),
    "a body that nobody wants": (GET + b"Content-Length: 5\r\n\r\nabcde", 200),
    "empty lines in front": (b"\r\n\r\n" + GET + b"\r\n", 200),
    "expectation that nobody knows": (GET + b"Expect: miracles\r\n\r\n", 417),
}


@pytest.mark.parametrize("name", WELL_FORMED)
def test_what_is_merely_odd(site: Site, name: str) -> None:
    data, status = WELL_FORMED[name]
    with Client(site.port) as client:
        client.send(data)
        answer = client.answer()
        assert (answer.status, answer.complete) == (status, True)


def test_pipelined_requests_are_answered_in_order(site: Site) -> None:
    with Client(site.port) as client:
        client.send((GET + b"\r\n" + NEXT) * 30)
        assert [client.answer().status for _ in range(60)] == [200, 404] * 30


def test_a_refused_upload_is_not_taken_for_the_next_request(site: Site) -> None:
    """The body of a request that was refused by its parameters looks like a request of its own."""
    with Client(site.port) as client:
        client.send(POST.replace(b"/v1/images", b"/v1/images?format=x") + b"Content-Length: %d\r\n\r\n" % len(NEXT))
        assert problem(client.answer())["parameter"] == "format"
        client.send(NEXT)
        assert client.read(1) == b""


def test_continue_is_said_before_the_body(site: Site) -> None:
    with Client(site.port) as client:
        client.send(POST + b"Expect: 100-continue\r\nContent-Length: 4\r\n\r\n")
        assert client.head().status == 100
        client.send(b"abcd")
        assert problem(client.answer())["code"] == "invalid_archive"
