"""`.dockerignore`: its lines, and what is sent whatever they say."""

from __future__ import annotations

import pytest

from streamer.context import ignore
from streamer.errors import InvalidRequest, LimitExceeded


def test_lines_become_patterns() -> None:
    lines = [
        b"test1", b"/test2", b"/a/file/here", b"", b"lastfile", b"# comment", b"! /inverted/abs/path", b"!", b"! ",
        b" # no comment", b"a/../b/./c//d/", b"/", b"//x", b"crlf\r", b"\xc2\xa0nbsp\xc2\xa0", b"\x1ckept",
    ]  # fmt: skip
    assert ignore.parsed(b"\xef\xbb\xbf" + b"\n".join(lines)) == [
        "test1", "test2", "a/file/here", "lastfile", "!inverted/abs/path", "!", "!",
        "# no comment", "b/c/d", "/", "x", "crlf", "nbsp", "\x1ckept",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("patterns", "dockerfile", "added"),
    [
        ([], b"Dockerfile", []),
        (["*"], b"Dockerfile", ["!.dockerignore", "!Dockerfile"]),
        (["*"], None, ["!.dockerignore"]),
        (["Dockerfile"], b"Dockerfile", ["!Dockerfile"]),
        (["*", "!Dockerfile"], b"Dockerfile", ["!.dockerignore"]),
        (["sub"], b"sub/Dockerfile", ["!sub/Dockerfile"]),
        (["*/deep"], b"sub/deep/er/Dockerfile", ["!sub/deep/er/Dockerfile"]),
    ],
)
def test_what_a_builder_needs_is_brought_back(patterns: list[str], dockerfile: bytes | None, added: list[str]) -> None:
    assert ignore.kept(patterns, dockerfile) == [*patterns, *added]


@pytest.mark.parametrize("pattern", ["!", "[", "a[b-a]", "a\\"])
def test_a_malformed_pattern_is_named(pattern: str) -> None:
    with pytest.raises(InvalidRequest, match="is not valid"):
        ignore.kept([pattern], b"Dockerfile")


@pytest.mark.parametrize("data", [b"a\n" * (1 << 19) + b"b", b"a" * (64 << 10)])
def test_too_much_is_refused(data: bytes) -> None:
    with pytest.raises(LimitExceeded, match="dockerignore"):
        ignore.parsed(data)
