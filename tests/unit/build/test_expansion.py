"""Variables and quotes, as the Dockerfile reference has them; what Docker 20.10 knows was compared with it."""

from __future__ import annotations

import time

import pytest

from streamer.build.expansion import expand, expand_words
from streamer.errors import InvalidRequest, LimitExceeded

VALUES = {"A": "1", "B": "b c", "EMPTY": "", "PATH": "/a/b.tar.gz", "ü": "umlaut", "STAR": "*"}

EXPANDED = {
    "plain": "plain",
    "$A": "1",
    "${A}": "1",
    "x$A-y": "x1-y",
    "$AB": "",
    "$UNSET|": "|",
    "$": "$",
    "a$ b": "a$ b",
    "$$": "",
    "$1x$@": "x",
    "$ü": "umlaut",
    "\\$A": "$A",
    "\\a": "a",
    "a\\": "a",
    "'$A'": "$A",
    '"$A"': "1",
    "\"a 'b' $B\"": "a 'b' b c",
    "'a \"b\"'": 'a "b"',
    '"\\$A \\" \\\\ \\n"': '$A " \\ \\n',
    "'\\n'": "\\n",
    "a'b'\"c\"d": "abcd",
    "${UNSET:-d}": "d",
    "${EMPTY:-d}": "d",
    "${EMPTY-d}": "",
    "${UNSET-d}": "d",
    "${A:-d}": "1",
    "${A:+s}": "s",
    "${EMPTY:+s}": "",
    "${EMPTY+s}": "s",
    "${UNSET+s}": "",
    "${UNSET:-${A}}": "1",
    "${UNSET:-${UNSET:-'q r'}}": "q r",
    "${UNSET:-a\\}b}": "a}b",
    "${A:?no}": "1",
    "${EMPTY?no}": "",
    "${PATH#*/}": "a/b.tar.gz",
    "${PATH##*/}": "b.tar.gz",
    "${PATH%.*}": "/a/b.tar",
    "${PATH%%.*}": "/a/b",
    "${PATH%.??}": "/a/b.tar",
    "${PATH#x}": "/a/b.tar.gz",
    "${PATH%}": "/a/b.tar.gz",
    "${PATH/a/A}": "/A/b.tar.gz",
    "${PATH//a/A}": "/A/b.tAr.gz",
    "${PATH//?/x}": "xxxxxxxxxxx",
    "${PATH/\\//-}": "-a/b.tar.gz",
    "${PATH//\\//-}": "-a-b.tar.gz",
    "${PATH/.*/}": "/a/b",
    "${STAR/\\*/x}": "x",
    "${UNSET/a/b}": "",
}


@pytest.mark.parametrize("text", EXPANDED)
def test_expanded(text: str) -> None:
    assert expand(text, VALUES) == EXPANDED[text]


WORDS = {
    "80 81": ["80", "81"],
    "$B": ["b", "c"],
    '"$B"': ["b c"],
    "x$B": ["xb", "c"],
    "'a b' c": ["a b", "c"],
    "a\\ b": ["a b"],
    " a  b ": ["a", "b"],
    "$UNSET": [],
    '""': [],
}


@pytest.mark.parametrize("text", WORDS)
def test_words(text: str) -> None:
    assert list(expand_words(text, VALUES)) == WORDS[text]


def test_another_escape() -> None:
    assert expand('`$A \\$A "`" \\n"', VALUES, "`") == '$A \\1 " \\n'


@pytest.mark.parametrize(
    "text",
    [
        "'a",
        '"a',
        '"a\\',
        "${",
        "${A",
        "${A:",
        "${A:-x",
        "${}",
        "${{A}}",
        "${:x}",
        "${A:x}",
        "${A!x}",
        "${A/x}",
        "${A#\\x}",
        "${UNSET:?}",
        "${EMPTY:?it is needed}",
        "${UNSET?}",
        "${A:-" * 40 + "}" * 40,
    ],
)
def test_malformed(text: str) -> None:
    with pytest.raises(InvalidRequest, match="cannot expand"):
        expand(text, VALUES)


def test_the_message_of_the_file_is_told() -> None:
    with pytest.raises(InvalidRequest, match="EMPTY: it is needed"):
        expand("${EMPTY:?it is needed}", VALUES)


@pytest.mark.parametrize(
    "text",
    [
        "$L" * 40,
        '"' + "$L" * 40 + '"',
        "${U:-" + "$L" * 40 + "}",
        "${L//?/" + "x" * 100 + "}",
        "${L#" + "?" * 1000 + "}",
    ],
)
def test_what_becomes_too_long(text: str) -> None:
    with pytest.raises(LimitExceeded):
        expand(text, {"L": "x" * 30_000})


def test_values_that_double() -> None:
    values = {"A": "x"}
    with pytest.raises(LimitExceeded):
        for _ in range(100):
            values["A"] = expand("$A$A", values)
    assert len(values["A"]) <= 1 << 20


def test_no_pattern_takes_long() -> None:
    """Backtracking would take years."""
    values = {"A": "a" * 3_000}
    began = time.process_time()
    assert expand("${A#" + "*a" * 30 + "b}", values) == values["A"]
    assert expand("${A//" + "*a" * 30 + "b/x}", values) == values["A"]
    assert time.process_time() - began < 10
