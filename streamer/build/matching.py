"""Patterns of `${NAME#PATTERN}` and its kin: `*` is anything, `?` any one character, a backslash takes both literally.

Matched by following all ways at once: no pattern takes longer than its length times the value's, which is limited.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from streamer.errors import InvalidRequest, LimitExceeded

MOST = 200_000
"""A pattern's length times the value's: what one match may take."""
_ANY = object()
_ONE = object()
_Pattern: TypeAlias = Sequence[object]


def compiled(text: str) -> tuple[object, ...]:
    """The pattern. InvalidRequest for a backslash before what needs none."""
    parts: list[object] = []
    characters = iter(text)
    for char in characters:
        if char == "\\":
            char = next(characters, "")
            if char not in ("*", "?", "\\", "}", "/"):
                raise InvalidRequest(f"the pattern {text[:100]!r} has a backslash before {char!r}")
            parts.append(char)
        elif char != "*":
            parts.append(_ONE if char == "?" else char)
        elif parts[-1:] != [_ANY]:  # twice says no more than once
            parts.append(_ANY)
    return tuple(parts)


def without_prefix(value: str, pattern: _Pattern, longest: bool) -> str:
    """The value without the shortest, or longest, beginning that matches."""
    _check(value, pattern)
    ends = _ends(value, pattern, 0)
    return value[(max if longest else min)(ends) :] if ends else value


def without_suffix(value: str, pattern: _Pattern, longest: bool) -> str:
    """The value without the shortest, or longest, end that matches."""
    return without_prefix(value[::-1], tuple(reversed(pattern)), longest)[::-1]


def replaced(value: str, pattern: _Pattern, by: str, everywhere: bool, longest: int = 1 << 20) -> str:
    """The value with the first match, or every one, replaced; each begins as early and is as long as it can be.
    LimitExceeded if more than `longest` characters would come out."""
    _check(value, pattern)
    # Where a match can begin is where one ends, seen from behind.
    behind = _ends(value[::-1], (_ANY, *reversed(pattern)), 0)
    begins = sorted(len(value) - end for end in behind)
    result, at = "", 0
    for begin in begins:
        if begin < at:
            continue
        end = max(_ends(value, pattern, begin))
        if end == begin and value:
            continue
        result += value[at:begin] + by
        if len(result) > longest:
            raise LimitExceeded(f"more than {longest} characters come of a substitution", limit=longest)
        at = end
        if not everywhere:
            break
        if _ANY in pattern:
            break  # it went as far as any match can
    return result + value[at:]


def _check(value: str, pattern: _Pattern) -> None:
    if len(value) * len(pattern) > MOST:
        raise LimitExceeded(
            f"a pattern of {len(pattern)} characters is too long for a value of {len(value)}", limit=MOST
        )


def _ends(value: str, pattern: _Pattern, begin: int) -> set[int]:
    """Where the matches end that begin there."""
    ends = set()
    states = _closed({0}, pattern)
    at = begin
    while states:
        if len(pattern) in states:
            ends.add(at)
        if at == len(value):
            break
        following = set()
        for state in states:
            if state == len(pattern):
                continue
            part = pattern[state]
            if part is _ANY:
                following.add(state)
            elif part is _ONE or part == value[at]:
                following.add(state + 1)
        states = _closed(following, pattern)
        at += 1
    return ends


def _closed(states: set[int], pattern: _Pattern) -> set[int]:
    """The states with those that are reached by letting a `*` match nothing."""
    for state in sorted(states):
        while state < len(pattern) and pattern[state] is _ANY:
            state += 1
            states.add(state)
    return states
