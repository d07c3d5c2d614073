"""Durations, as Go reads and prints them."""

from __future__ import annotations

import pytest

from streamer.build import durations
from streamer.errors import InvalidRequest

TEXTS = {
    "0s": 0,
    "1ns": 1,
    "1.5µs": 1_500,
    "250ms": 250_000_000,
    "1.0005s": 1_000_500_000,
    "59.999999999s": 59_999_999_999,
    "1m0s": 60_000_000_000,
    "1h0m0.5s": 3_600_500_000_000,
    "2400h0m0s": 8_640_000_000_000_000,
}


@pytest.mark.parametrize("text", TEXTS)
def test_round_trip(text: str) -> None:
    assert durations.parse(text) == TEXTS[text]
    assert durations.text(TEXTS[text]) == text


OTHERS = {"0": 0, "1h": 3_600_000_000_000, ".5s": 500_000_000, "1us": 1_000, "+1.s": 1_000_000_000}


@pytest.mark.parametrize("text", OTHERS)
def test_other_forms(text: str) -> None:
    assert durations.parse(text) == OTHERS[text]


@pytest.mark.parametrize("text", ["", "1", "s", "-1s", "1 s", "1d", "1s x", "١s", "1e3s", "9999999h", "1" * 200 + "s"])
def test_malformed(text: str) -> None:
    with pytest.raises(InvalidRequest):
        durations.parse(text)
