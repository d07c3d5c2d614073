"""Entity tags in headers, and the order in which conditions count."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.web.conditional import Asked, Tags, Verdict, one, parsed
from streamer.web.ranges import Range

NONE = Tags()


def tags(*strong: str, weak: tuple[str, ...] = ()) -> Tags:
    return Tags(frozenset(strong), frozenset(strong) | frozenset(weak))


LISTS = [
    (['"a"'], tags("a")),
    (['""'], tags("")),
    (['W/"a"'], tags(weak=("a",))),
    (['"a", "b"'], tags("a", "b")),
    (['"a"', '"b"'], tags("a", "b")),
    (['"a",W/"b" ,\t"c"'], tags("a", "c", weak=("b",))),
    ([', ,"a",,"b",'], tags("a", "b")),
    (['"a,b"'], tags("a,b")),
    (['"sha256:0a"'], tags("sha256:0a")),
    (['"\'!#$%&()*+-./:;<=>?@[\\]^_`{|}~"'], tags("'!#$%&()*+-./:;<=>?@[\\]^_`{|}~")),
    (['"\xe4"'], tags("\xe4")),
    (['"*"'], tags("*")),
    (["*"], Tags(any=True)),
    ([" * "], Tags(any=True)),
    # Not well formed: a condition that no version meets.
    ([""], NONE),
    (["a"], NONE),
    (['"a'], NONE),
    (['a"'], NONE),
    (['w/"a"'], NONE),
    (['W/ "a"'], NONE),
    (['"a" "b"'], NONE),
    (['"a""b"'], NONE),
    (['"a";"b"'], NONE),
    (['"a b"'], NONE),
    (['"a", b'], NONE),
    (['*, "a"'], NONE),
    (['"a", *'], NONE),
    (["*", "*"], NONE),
    (["'a'"], NONE),
    (["Tue, 24 Nov 2026 06:25:42 GMT"], NONE),
]


@pytest.mark.parametrize(("lines", "expected"), LISTS, ids=lambda value: str(value)[:40] if type(value) is list else "")
def test_lists_of_tags(lines: list[str], expected: Tags) -> None:
    assert parsed(lines) == expected


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (['"a"'], tags("a")),
        (['W/"a"'], tags(weak=("a",))),
        (['"a", "b"'], NONE),
        (['"a"', '"a"'], NONE),
        (["*"], NONE),
        (["Tue, 24 Nov 2026 06:25:42 GMT"], NONE),
        ([], NONE),
    ],
)
def test_the_only_tag(lines: list[str], expected: Tags) -> None:
    assert one(lines) == expected


@given(st.lists(st.text()))
def test_any_text_is_tags_or_none(lines: list[str]) -> None:
    found = parsed(lines)
    assert found.strong <= found.all


def test_a_long_header_takes_no_long_time() -> None:
    for text in ('"' * 8000, '"a",' * 2000 + "x", '"a"' + " " * 8000 + "x", "," * 8000 + "x", '"a" ' * 2000):
        assert parsed([text]) == NONE


A, B = tags("a"), tags("b")
WEAK = tags(weak=("a",))
ANY = Tags(any=True)
PART, BEHIND = Range(10, 19), Range(100, None)
SENT, SPAN = Verdict(200, (0, 100)), Verdict(206, (10, 20))

VERDICTS = [
    (Asked(False), SENT),
    (Asked(True), Verdict(200)),
    (Asked(False, PART), SPAN),
    (Asked(False, BEHIND), Verdict(416)),
    (Asked(False, PART, if_range=A), SPAN),
    (Asked(False, PART, if_range=B), SENT),
    (Asked(False, PART, if_range=WEAK), SENT),
    (Asked(False, PART, if_range=NONE), SENT),
    (Asked(False, BEHIND, if_range=A), Verdict(416)),
    (Asked(False, BEHIND, if_range=B), SENT),
    (Asked(False, if_range=B), SENT),
    (Asked(False, if_match=A), SENT),
    (Asked(False, if_match=ANY), SENT),
    (Asked(False, if_match=WEAK), Verdict(412)),
    (Asked(False, if_match=B), Verdict(412)),
    (Asked(False, if_match=NONE), Verdict(412)),
    (Asked(True, if_match=B), Verdict(412)),
    (Asked(False, if_none_match=A), Verdict(304)),
    (Asked(True, if_none_match=A), Verdict(304)),
    (Asked(False, if_none_match=WEAK), Verdict(304)),
    (Asked(False, if_none_match=ANY), Verdict(304)),
    (Asked(False, if_none_match=B), SENT),
    (Asked(False, if_none_match=NONE), SENT),
    # Preconditions come before ranges, If-Match before If-None-Match.
    (Asked(False, PART, if_match=B), Verdict(412)),
    (Asked(False, BEHIND, if_match=B), Verdict(412)),
    (Asked(False, BEHIND, if_none_match=A), Verdict(304)),
    (Asked(False, PART, if_match=B, if_none_match=A), Verdict(412)),
    (Asked(False, PART, if_match=A, if_none_match=A), Verdict(304)),
    (Asked(False, PART, if_range=A, if_match=A, if_none_match=B), SPAN),
]


@pytest.mark.parametrize(("asked", "verdict"), VERDICTS)
def test_verdicts(asked: Asked, verdict: Verdict) -> None:
    assert asked.verdict(100, "a") == verdict


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        (Asked(False), None),
        (Asked(False, PART, if_range=A), None),
        (Asked(False, if_match=ANY), None),
        (Asked(False, if_match=A), 412),
        (Asked(False, if_match=NONE), 412),
        (Asked(False, if_none_match=ANY), 304),
        (Asked(False, if_none_match=A), None),
    ],
)
def test_what_has_no_version_is_none_that_anybody_names(asked: Asked, status: int | None) -> None:
    assert asked.unmet(None) == status
