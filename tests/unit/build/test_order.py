"""What is ordered, checked before anything is looked at."""

from __future__ import annotations

import pytest

from streamer.build.order import names, pairs
from streamer.errors import InvalidReference, InvalidRequest


def test_names() -> None:
    found = names(["a", "b:1", "docker.io/library/a:latest", "host:5000/c"])
    assert [name.name for name in found] == [
        "docker.io/library/a:latest",
        "docker.io/library/b:1",
        "host:5000/c:latest",
    ]


@pytest.mark.parametrize("text", ["A", "a:b:c", "", "a@sha256:" + "0" * 64])
def test_what_is_no_name(text: str) -> None:
    with pytest.raises(InvalidReference):
        names([text])


def test_pairs() -> None:
    assert pairs(["a=b", "c=", "d=e=f", "g"], "--label") == {"a": "b", "c": "", "d": "e=f", "g": ""}


def test_a_name_alone_takes_what_is_there() -> None:
    assert pairs(["a", "b", "c=x"], "--build-arg", {"a": "1", "c": "2"}) == {"a": "1", "c": "x"}


@pytest.mark.parametrize("text", ["", "=a", "a b=c", " "])
def test_what_is_no_pair(text: str) -> None:
    with pytest.raises(InvalidRequest, match="--label"):
        pairs([text], "--label")
