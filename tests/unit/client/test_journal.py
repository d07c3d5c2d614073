from __future__ import annotations

import json

import pytest

from streamer.client.journal import Journal, decode

JOURNAL = Journal("/v1/containers/web/archive", '"abc"', 100, ((0, 10), (20, 30)))


def test_comes_back() -> None:
    assert decode(JOURNAL.encode(), 30) == JOURNAL


def test_claims_no_bytes_that_are_not_there() -> None:
    assert decode(JOURNAL.encode(), 29) is None


@pytest.mark.parametrize("length", range(0, len(JOURNAL.encode()) - 2, 7))
def test_half_a_journal_is_none(length: int) -> None:
    data = JOURNAL.encode()
    assert decode(data[:length], 100) is None
    assert decode(data[:length] + bytes(len(data) - length), 100) is None


@pytest.mark.parametrize(
    "changed",
    [
        {"version": 2},
        {"version": None},
        {"request": 1},
        {"etag": None},
        {"size": "100"},
        {"size": 29},
        {"size": True},
        {"size": 100.0},
        {"spans": None},
        {"spans": [[0]]},
        {"spans": [[0, 10, 20]]},
        {"spans": [[10, 0]]},
        {"spans": [[5, 5]]},
        {"spans": [[-1, 5]]},
        {"spans": [[0, 10], [5, 20]]},
        {"spans": [[20, 30], [0, 10]]},
        {"spans": [["0", "10"]]},
        {"spans": [[0, 1 << 80]]},
        {"spans": {"a": 1}},
    ],
)
def test_nonsense_is_none(changed: dict[str, object]) -> None:
    assert decode(json.dumps({**json.loads(JOURNAL.encode()), **changed}).encode(), 30) is None


@pytest.mark.parametrize("data", [b"", b"null", b"[]", b'"x"', b"1", b"[" * 100_000, b"\xff\xfe", b"{}", b"NaN"])
def test_no_journal_at_all(data: bytes) -> None:
    assert decode(data, 1 << 40) is None
