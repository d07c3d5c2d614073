"""Signals as STOPSIGNAL takes them: a number, or a name with or without SIG, in any case."""

from __future__ import annotations

import signal

from streamer.errors import InvalidRequest

_REAL_TIME = (34, 64)
"""SIGRTMIN and SIGRTMAX as C libraries have them, which keep the first two for themselves."""
_OTHERS = ("IOT", "CLD", "POLL", "STKFLT", "UNUSED")


def check(text: str) -> None:
    """InvalidRequest unless it is a signal."""
    if text.isascii() and text.isdigit():
        if not 0 < int(text[:5]) <= _REAL_TIME[1]:
            raise InvalidRequest(f"there is no signal {text[:20]}")
        return
    name = text.upper().removeprefix("SIG")
    known = {each.name.removeprefix("SIG") for each in signal.Signals} | {*_OTHERS, "RTMIN", "RTMAX"}
    known |= {f"RTMIN+{step}" for step in range(1, 16)} | {f"RTMAX-{step}" for step in range(1, 15)}
    if name not in known:
        raise InvalidRequest(f"there is no signal {text[:100]!r}")
