from __future__ import annotations

import signal

import pytest

from streamer import errors
from streamer.cli import exit as exits
from streamer.client import failure
from streamer.errors import StreamerError


def _classes() -> list[type[StreamerError]]:
    found = [StreamerError]
    for kind in found:
        found += kind.__subclasses__()
    return [kind for kind in found if kind.__module__ in (errors.__name__, failure.__name__)]


def test_every_code_has_an_exit_code_and_no_other_has() -> None:
    assert {kind.code for kind in _classes()} == set(exits.CODES)


def test_every_exit_code_is_described() -> None:
    described = [number for number, _ in exits.MEANINGS]
    assert described == sorted(set(described))
    assert set(exits.CODES.values()) | {0, 130} == set(described)
    assert all(f"{number}  {meaning}" in exits.epilog() for number, meaning in exits.MEANINGS)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.NotFound("x"), 3),
        (errors.DigestMismatch("x"), 5),
        (errors.SourceChanged("x"), 6),
        (ValueError("x"), 1),
        (KeyboardInterrupt(), 130),
        (BrokenPipeError(), 141),
        (exits.Interrupted(signal.SIGTERM), 143),
    ],
)
def test_status(error: BaseException, code: int) -> None:
    assert exits.status(error) == code
