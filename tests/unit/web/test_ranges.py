"""`Range`: what is one range of bytes, and which bytes it means."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.web.ranges import parsed

SIZE = 1000

MEANT = [
    ("bytes=0-0", (0, 1)),
    ("bytes=0-", (0, 1000)),
    ("bytes=999-", (999, 1000)),
    ("bytes=10-19", (10, 20)),
    ("bytes=10-999", (10, 1000)),
    ("bytes=10-1000", (10, 1000)),
    ("bytes=0-99999999999999999999999999", (0, 1000)),
    ("bytes=10-" + "9" * 6000, (10, 1000)),
    ("bytes=-1", (999, 1000)),
    ("bytes=-1000", (0, 1000)),
    ("bytes=-1001", (0, 1000)),
    ("bytes=-" + "9" * 6000, (0, 1000)),
    ("bytes=007-008", (7, 9)),
    ("bytes=" + "0" * 5000 + "-1", (0, 2)),
    ("Bytes=1-2", (1, 3)),
    ("BYTES=1-2", (1, 3)),
    ("bytes=1-2,", (1, 3)),
    ("bytes=,1-2", (1, 3)),
    ("bytes=, \t,1-2 ,", (1, 3)),
]

NOTHING = ["bytes=1000-", "bytes=1000-2000", "bytes=-0", "bytes=-000", "bytes=99999999999999999999-", "bytes=2000-3000"]

IGNORED = [
    "",
    "bytes",
    "bytes=",
    "bytes=-",
    "bytes=,",
    "bytes=--1",
    "bytes=1--2",
    "bytes=1-2-3",
    "bytes=5-4",
    "bytes=2000-1999",
    "bytes=0-0,2-2",
    "bytes=0-,0-",
    "bytes=0-0,nonsense",
    "bytes=+1-2",
    "bytes=1.0-2",
    "bytes=0x1-2",
    "bytes=1_0-20",
    "bytes=1 - 2",
    "bytes= 1-2",
    "bytes =1-2",
    "bytes:1-2",
    "bytes 1-2/1000",
    "bytes=\u0661-\u0662",
    "bytes=\u00b2-",
    "items=0-1",
    "byte=0-1",
    "1-2",
    "bytes=1-2;3",
    "bytes=" + ",".join(f"{n}-{n}" for n in range(1000)),
    "bytes=" + "," * 8000,
]


@pytest.mark.parametrize(("header", "span"), MEANT, ids=lambda value: str(value)[:30])
def test_the_bytes_that_are_meant(header: str, span: tuple[int, int]) -> None:
    found = parsed([header])
    assert found is not None
    assert found.of(SIZE) == span
    assert found.begins(SIZE) == span[0]


@pytest.mark.parametrize("header", NOTHING)
def test_a_range_of_nothing(header: str) -> None:
    found = parsed([header])
    assert found is not None
    assert found.of(SIZE) is None


@pytest.mark.parametrize("header", IGNORED, ids=lambda value: value[:30])
def test_what_is_not_one_range_of_bytes(header: str) -> None:
    assert parsed([header]) is None


def test_a_header_that_is_not_there_or_there_twice() -> None:
    assert parsed([]) is None
    assert parsed(["bytes=0-1", "bytes=0-1"]) is None


def test_where_a_suffix_begins_only_the_size_tells() -> None:
    found = parsed(["bytes=-10"])
    assert found is not None
    assert (found.begins(None), found.begins(SIZE), found.begins(5)) == (0, 990, 0)


@given(st.integers(0, 50), st.one_of(st.none(), st.integers(0, 50)), st.integers(1, 40))
def test_every_byte_that_is_in_the_range_and_no_other(first: int, last: int | None, size: int) -> None:
    found = parsed([f"bytes={first}-{'' if last is None else last}"])
    if last is not None and last < first:
        assert found is None
        return
    assert found is not None
    meant = [place for place in range(size) if first <= place and (last is None or place <= last)]
    span = found.of(size)
    assert (list(range(*span)) if span else []) == meant


@given(st.integers(0, 50), st.integers(0, 40))
def test_every_byte_of_a_suffix(count: int, size: int) -> None:
    found = parsed([f"bytes=-{count}"])
    assert found is not None
    span = found.of(size)
    assert (list(range(*span)) if span else []) == [place for place in range(size) if place >= size - count]


@given(st.text())
def test_any_text_is_a_range_or_ignored(text: str) -> None:
    parsed([text])
    found = parsed([f"bytes={text}"])
    if found is not None:
        found.of(SIZE)
