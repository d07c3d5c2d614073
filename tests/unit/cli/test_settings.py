"""`streamer.settings`: what is wrong is said as it was typed."""

from __future__ import annotations

import pytest

from streamer.errors import InvalidRequest
from streamer.settings import load, misspelt


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("STREAMER_MAX_EXPORTS", "abc", "is not a whole number"),
        ("STREAMER_MAX_EXPORTS", "1.5", "is not a whole number"),
        ("STREAMER_MAX_EXPORTS", "0", "is less than 1"),
        ("STREAMER_MAX_EXPORTS", "10001", "is more than 10000"),
        ("STREAMER_STALL_TIMEOUT", "soon", "is not a number"),
        ("STREAMER_STALL_TIMEOUT", "0", "is not more than 0.0"),
        ("STREAMER_DISCOVER", "maybe", "is neither yes nor no"),
        ("STREAMER_LOG_FORMAT", "xml", "is not 'auto', 'console' or 'json'"),
    ],
)
def test_a_variable(name: str, value: str, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(InvalidRequest) as caught:
        load()
    assert str(caught.value) == f"{name}={value!r} {why}"


def test_a_flag() -> None:
    with pytest.raises(InvalidRequest, match=r"^--store=3 is wrong: "):
        load(stores=3)
    with pytest.raises(InvalidRequest, match=r"^--max-exports='abc' is not a whole number$"):
        load(max_exports="abc")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("STREAMER_STORE", "STREAMER_STORES"),
        ("STREAMER_LOGLEVEL", "STREAMER_LOG_LEVEL"),
        ("streamer_staet", "STREAMER_STATE"),
        ("STREAMER_STATE", None),
        ("streamer_state", None),
        ("STREAMER_PORT_8080_TCP_ADDR", None),  # Kubernetes, beside a service called streamer
        ("STREAMER_NO_SKIPS", None),
        ("STORES", None),
    ],
)
def test_misspelt(name: str, meant: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "x")
    assert misspelt().get(name) == meant
