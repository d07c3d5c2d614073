"""What a service refuses, as our own errors; and which failures may pass by themselves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus

from streamer import errors
from streamer.errors import (
    Busy,
    Conflict,
    InvalidRequest,
    LimitExceeded,
    NotFound,
    NotPermitted,
    SourceFailed,
    StorageFull,
    StreamerError,
    Unsupported,
)

LONGEST_PROBLEM = 64 << 10
"""Bytes of a problem's body that are read; more would not be a message."""
_LONGEST_DETAIL = 2000

_PASSING = frozenset({408, 425, 429, 502, 503, 504})
_CHANGED = frozenset({412, 416})
_REDIRECTS = frozenset({300, 301, 302, 303, 305, 307, 308})


class Unreachable(StreamerError):
    """A service does not answer, or breaks off, as often as it was tried."""

    code = "unreachable"


class Transient(Exception):
    """A failure that the next try may not meet. `error` is what to raise after the last one, `wait` the least number of
    seconds that the service asks to be left alone."""

    def __init__(self, error: StreamerError, wait: float = 0) -> None:
        super().__init__(str(error))
        self.error = error
        self.wait = wait


class Changed(Exception):
    """The archive is another one than that which was begun."""


_BY_STATUS: Mapping[int, type[StreamerError]] = {
    401: NotPermitted,
    403: NotPermitted,
    404: NotFound,
    405: Unsupported,
    406: Unsupported,
    407: NotPermitted,
    409: Conflict,
    410: NotFound,
    413: LimitExceeded,
    422: Unsupported,
    429: Busy,
    501: Unsupported,
    502: Unreachable,
    503: Busy,
    504: Unreachable,
    505: Unsupported,
    507: StorageFull,
}


def _codes() -> dict[str, type[StreamerError]]:
    kinds: list[type[StreamerError]] = [StreamerError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    return {kind.code: kind for kind in reversed(kinds) if kind.__module__ == errors.__name__}


_BY_CODE = _codes()
for _code in ("consumer_gone", "digest_mismatch"):  # the service's own business: here they would tell of ours
    del _BY_CODE[_code]


def refusal(
    service: str, status: int, headers: Mapping[str, str], body: bytes, *, conditional: bool = True
) -> Exception:
    """What to raise for an answer that is no archive: a StreamerError, Transient, or, where the request was
    `conditional` or for a part, Changed."""
    if status in _REDIRECTS:
        target = headers.get("Location", "")[:300]
        return InvalidRequest(f"{service} redirects to {target!r}, and is not followed: give the address itself")
    if status in _CHANGED and conditional:
        return Changed()
    code, detail = _problem(body)
    if code == "internal" and detail:
        detail = f"{service}: {detail}"
    kind = _BY_CODE.get(code) or _BY_STATUS.get(status) or (InvalidRequest if status < 500 else SourceFailed)
    phrase = HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else "an unknown status"
    error = kind(detail or f"{service} answered {status} ({phrase})")
    return Transient(error, _seconds(headers.get("Retry-After", ""))) if status in _PASSING else error


def _problem(body: bytes) -> tuple[str, str]:
    """`code` and `detail` of problem+json, empty where there are none."""
    try:
        members = json.loads(body)
    except (ValueError, RecursionError):
        return "", ""
    if not isinstance(members, dict):
        return "", ""
    code, detail = members.get("code"), members.get("detail")
    return (
        code if isinstance(code, str) else "",
        detail[:_LONGEST_DETAIL] if isinstance(detail, str) else "",
    )


def _seconds(text: str) -> float:
    """Retry-After in seconds; 0 where it is a date or nonsense, and our own pauses have to do."""
    return float(text) if text.isascii() and text.isdecimal() and len(text) < 7 else 0
