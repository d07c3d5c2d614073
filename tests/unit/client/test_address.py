from __future__ import annotations

import pytest

from streamer.client.address import Address, parse
from streamer.errors import InvalidRequest


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://node:8080", Address("http://node:8080", "http://node:8080")),
        ("http://node:8080/", Address("http://node:8080", "http://node:8080")),
        ("http://node", Address("http://node", "http://node")),
        ("https://node/a/b/", Address("https://node/a/b", "https://node/a/b")),
        ("HTTP://Node:80/x", Address("http://node/x", "http://node:80/x")),
        ("http://[::1]:8080", Address("http://[::1]:8080", "http://[::1]:8080")),
        ("http://bücher.example:1", Address("http://xn--bcher-kva.example:1", "http://bücher.example:1")),
        (
            "https://me:s%40cret@node:1/x",
            Address("https://node:1/x", "https://node:1/x", login=("me", "s@cret")),
        ),
        ("unix:/run/s.sock", Address("http://localhost", "unix:/run/s.sock", "/run/s.sock")),
        ("unix:s.sock", Address("http://localhost", "unix:s.sock", "s.sock")),
    ],
)
def test_parse(text: str, expected: Address) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "node:8080",
        "node",
        "//node",
        "ftp://node/",
        "http://",
        "http:///v1",
        "http://:8080",
        "http://node:0",
        "http://node:65536",
        "http://node:x",
        "http://node?x=1",
        "http://node/?",
        "http://node/#x",
        "http://no de",
        "http://node\n/x",
        "http://node\\x",
        "http://[::1",
        "http://a%3Ab:c@node",
        "http://node:8080:9",
        "unix:",
        "unix:a\0b",
    ],
)
def test_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="is not http://HOST:PORT"):
        parse(text)


def test_a_password_is_never_shown() -> None:
    assert "secret" not in repr(parse("http://me:secret@node"))
    with pytest.raises(InvalidRequest) as caught:
        parse("http://me:secret@node:x")
    assert "secret" not in str(caught.value)
