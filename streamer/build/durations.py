"""Durations as Go's `time` package writes them (`1m30s`), in nanoseconds; HEALTHCHECK takes and records them so."""

from __future__ import annotations

import re
from decimal import Decimal

from streamer.errors import InvalidRequest

_UNITS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "μs": 1_000,  # the Greek letter beside the micro sign
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_PART = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)", re.ASCII)
_LONGEST = 1 << 63


def parse(text: str) -> int:
    """Nanoseconds. InvalidRequest for what is none, negative or beyond 292 years."""
    total, at = 0, 0
    if text in ("0", "+0"):
        return 0
    text = text.removeprefix("+")
    while match := _PART.match(text, at):
        total += int(Decimal(match[1]) * _UNITS[match[2]])
        at = match.end()
    if at == 0 or at < len(text) or len(text) > 100:
        raise InvalidRequest(f"{text[:100]!r} is not a duration (for example 30s or 1m30s)")
    if total >= _LONGEST:
        raise InvalidRequest(f"the duration {text} is too long")
    return total


def text(nanoseconds: int) -> str:
    """As Go prints it: `1h0m5s`, `1.5s`, `250ms`, `0s`."""
    if nanoseconds == 0:
        return "0s"
    if nanoseconds < _UNITS["s"]:
        unit = "ms" if nanoseconds >= _UNITS["ms"] else "µs" if nanoseconds >= _UNITS["us"] else "ns"
        return _decimal(nanoseconds, _UNITS[unit]) + unit
    minutes, rest = divmod(nanoseconds, _UNITS["m"])
    hours, minutes = divmod(minutes, 60)
    seconds = _decimal(rest, _UNITS["s"]) + "s"
    if hours:
        return f"{hours}h{minutes}m{seconds}"
    return f"{minutes}m{seconds}" if minutes else seconds


def _decimal(value: int, unit: int) -> str:
    whole, part = divmod(value, unit)
    digits = str(part).zfill(len(str(unit)) - 1).rstrip("0") if part else ""
    return f"{whole}.{digits}" if digits else str(whole)
