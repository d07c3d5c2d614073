"""Dockerfiles as logical lines: continuations, comments, directives, as Docker 20.10 reads them."""

from __future__ import annotations

import pytest

from streamer.build.script import MAX_SIZE, read
from streamer.errors import InvalidRequest, LimitExceeded, StreamerError, Unsupported

LINES = {
    "one": (b"FROM a", [(1, "FROM a")]),
    "several": (b"FROM a\nENV b\n", [(1, "FROM a"), (2, "ENV b")]),
    "empty lines": (b"\n\n  \nFROM a\n\n", [(4, "FROM a")]),
    "carriage returns": (b"FROM a\r\nENV b \\\r\n c\r\n", [(1, "FROM a"), (2, "ENV b  c")]),
    "byte order mark": (b"\xef\xbb\xbfFROM a", [(1, "FROM a")]),
    "white space in front": (b" \t FROM a  ", [(1, "FROM a  ")]),
    "comments": (b"# x\n  # y\nFROM a # z", [(3, "FROM a # z")]),
    "continued": (b"ENV a \\\n  b\\\nc", [(1, "ENV a   bc")]),
    "blanks behind the escape": (b"ENV a\\ \t\nb", [(1, "ENV ab")]),
    "comment inside": (b"ENV a \\\n# no\n   # no\n b", [(1, "ENV a  b")]),
    "comment ends in an escape": (b"# a \\\nENV b", [(2, "ENV b")]),
    "continued at the end": (b"ENV a \\", [(1, "ENV a ")]),
    "escape alone": (b"\\\nENV a", [(1, "ENV a")]),
    "not UTF-8": (b"ENV a \xff", [(1, "ENV a \N{REPLACEMENT CHARACTER}")]),
    "escape directive": (b"# escape=`\nENV a\\\nENV b`\n c", [(2, "ENV a\\"), (3, "ENV b c")]),
    "directive in capitals": (b"#ESCAPE = `  \nENV b`\nc", [(2, "ENV bc")]),
    "directive after a comment": (b"# x\n# escape=`\nENV b`", [(3, "ENV b`")]),
    "directive after an empty line": (b"\n# escape=`\nENV b`", [(3, "ENV b`")]),
    "directive after an instruction": (b"FROM a\n# escape=`\nENV b`", [(1, "FROM a"), (3, "ENV b`")]),
    "another program's directive": (b"# check=skip=all\n# escape=`\nENV b`\nc", [(3, "ENV bc")]),
}


@pytest.mark.parametrize("name", LINES)
def test_lines(name: str) -> None:
    data, expected = LINES[name]
    assert [(line.number, line.text) for line in read(data).lines] == expected


def test_an_empty_line_inside_a_continuation_is_told() -> None:
    script = read(b"FROM a\nENV b \\\n\n  c\nENV d \\\n e")
    assert [line.text for line in script.lines] == ["FROM a", "ENV b   c", "ENV d  e"]
    assert script.gaps == (2,)


REFUSED: dict[str, tuple[bytes, type[StreamerError], int | None]] = {
    "syntax": (b"# syntax=docker/dockerfile:1\nFROM a", Unsupported, 1),
    "syntax after escape": (b"# escape=\\\n#syntax = x\nFROM a", Unsupported, 2),
    "escape twice": (b"# escape=`\n# escape=`\n", InvalidRequest, 2),
    "other escape": (b"# escape=^\n", InvalidRequest, 1),
    "long line": (b"FROM a\nENV a=" + b"x" * 65_536, LimitExceeded, 2),
    "long file": (b"#\n" * (MAX_SIZE // 2 + 1), LimitExceeded, None),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    data, kind, line = REFUSED[name]
    with pytest.raises(kind) as caught:
        read(data)
    assert type(caught.value) is kind
    assert caught.value.details.get("line") == line


def test_what_looks_like_a_directive_further_down_is_a_comment() -> None:
    assert read(b"FROM a\n# syntax=x\n").lines[0].text == "FROM a"
