"""Parts of a line: flags, words, pairs, JSON arrays."""

from __future__ import annotations

import pytest

from streamer.build import splitting
from streamer.errors import InvalidRequest

COMMANDS = {
    "FROM a": ("from", (), "a"),
    "CMD": ("cmd", (), ""),
    "copy\t--from=x  --chown=1:2 a  b ": ("copy", ("--from=x", "--chown=1:2"), "a  b"),
    'COPY --a=\'b c\' --d="e\\"f" --g=h\\ i x': ("copy", ("--a=b c", '--d=e"f', "--g=h i"), "x"),
    "COPY -- --x y": ("copy", (), "--x y"),
    "COPY --x": ("copy", ("--x",), ""),
    "COPY -x y": ("copy", (), "-x y"),
    "COPY --x='a b": ("copy", ("--x=a b",), ""),
}


@pytest.mark.parametrize("line", COMMANDS)
def test_commands(line: str) -> None:
    assert splitting.command(line) == COMMANDS[line]


WORDS = {
    "a  b": ["a", "b"],
    "a='b c' d": ["a='b c'", "d"],
    'a="b \\" c" d': ['a="b \\" c"', "d"],
    "a\\ b c": ["a\\ b", "c"],
    "'a\\' b": ["'a\\'", "b"],
    '"" x': ['""', "x"],
    "a\\": ["a"],
    "\N{NO-BREAK SPACE}a\N{EM SPACE}b": ["a", "b"],
    "a\x1fb": ["a\x1fb"],
    "": [],
}


@pytest.mark.parametrize("text", WORDS)
def test_words(text: str) -> None:
    assert list(splitting.words(text, "\\")) == WORDS[text]


PAIRS = {
    "a=b": [("a", "b")],
    "a=b c='d e' f=": [("a", "b"), ("c", "'d e'"), ("f", "")],
    "a=b=c": [("a", "b=c")],
    "a b  c": [("a", "b  c")],
    "a b=c d": [("a", "b=c d")],
    '"a b"=c': [('"a b"', "c")],
    "": [],
}


@pytest.mark.parametrize("text", PAIRS)
def test_pairs(text: str) -> None:
    assert list(splitting.pairs(text, "ENV", "\\")) == PAIRS[text]


@pytest.mark.parametrize("text", ["a", "a=b c"])
def test_what_is_no_pair(text: str) -> None:
    with pytest.raises(InvalidRequest):
        splitting.pairs(text, "ENV", "\\")


ARRAYS: dict[str, tuple[str, ...] | None] = {
    '["a", "b"]': ("a", "b"),
    ' [ "a" ] ': ("a",),
    "[]": (),
    '["\\u00e9\\ud83d\\ude00"]': ("é😀",),
    '["\\ud83d"]': ("\N{REPLACEMENT CHARACTER}",),
    "['a']": None,
    '["a"': None,
    '["a"] b': None,
    "[a]": None,
    "[NaN]": None,
    '"a"': None,
    "": None,
}


@pytest.mark.parametrize("text", ARRAYS)
def test_arrays(text: str) -> None:
    assert splitting.array(text) == ARRAYS[text]


@pytest.mark.parametrize(
    "text", ["[1]", '["a", null]', "[[]]", "[" * 100_000 + "]" * 100_000, "[" + "9" * 10_000 + "]"]
)
def test_arrays_of_other_things(text: str) -> None:
    with pytest.raises(InvalidRequest):
        splitting.array(text)
