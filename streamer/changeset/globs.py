"""One pattern of a `.dockerignore` file as a function of a path, linear in the path whatever the pattern."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

_BACKTRACKING: Final = 2
"""How many wildcards of any length a pattern may have to be left to `re`, which takes polynomial time with more."""

_ANY: Final = "[^/]"

_ESCAPES: Final = {
    "a": "\\x07",
    "f": "\\f",
    "n": "\\n",
    "r": "\\r",
    "t": "\\t",
    "v": "\\v",
    "d": "[0-9]",
    "D": "[^0-9]",
    "s": "[\\t\\n\\f\\r ]",
    "S": "[^\\t\\n\\f\\r ]",
    "w": "[0-9A-Za-z_]",
    "W": "[^0-9A-Za-z_]",
}
"""Go's regexp syntax, as far as one character of a path can match it."""


@dataclass(frozen=True, slots=True)
class _Part:
    """`one` character, `many` of those or none, `deep`: nothing or anything up to a slash, `rest`: anything."""

    kind: str
    source: str
    """A regular expression for a single character."""


def compiled(pattern: str) -> Callable[[str], bool]:
    """Whether a path matches `pattern` (cleaned, without `!`) as a whole. Raises ValueError for a bad one.

    The forms of moby's patternmatcher: exact; `X/**` everything below X; `**X` everything that ends in X; else `*` and
    `?` within a component, `**` across, `[...]`, and `\\` before a character taken as it is.
    """
    parts = _parts(pattern)
    if not _special(pattern):
        return pattern.__eq__
    if pattern.endswith("**") and not _special(pattern[:-2]):
        return _beginning(pattern[:-2])
    if pattern.startswith("**") and not _special(pattern[2:]):
        return _ending(pattern[2:])
    if sum(part.kind != "one" for part in parts) <= _BACKTRACKING:
        # DOTALL is off on purpose: Go's `.` does not match a newline either.
        return _fullmatch(re.compile("".join(_source(part) for part in parts)))
    return _stepping(parts)


def _special(text: str) -> bool:
    return any(character in text for character in "*?[\\")


def _beginning(prefix: str) -> Callable[[str], bool]:
    return lambda path: path.startswith(prefix)


def _ending(suffix: str) -> Callable[[str], bool]:
    def matches(path: str) -> bool:
        return path.endswith(suffix) or (suffix.startswith("/") and path == suffix[1:])

    return matches


def _fullmatch(expression: re.Pattern[str]) -> Callable[[str], bool]:
    fullmatch = expression.fullmatch
    return lambda path: fullmatch(path) is not None


def _source(part: _Part) -> str:
    if part.kind == "deep":
        return "(?:.*/)?"
    if part.kind == "rest":
        return ".*"
    return part.source + ("*" if part.kind == "many" else "")


def _parts(pattern: str) -> list[_Part]:
    parts: list[_Part] = []
    at = 0
    while at < len(pattern):
        character = pattern[at]
        at += 1
        if character == "*" and pattern[at : at + 1] == "*":
            at += 1
            if pattern[at : at + 1] == "/":
                at += 1
            kind = "deep" if at < len(pattern) else "rest"
            if not (parts and parts[-1].kind == kind):  # twice says no more than once
                parts.append(_Part(kind, "."))
        elif character == "*":
            parts.append(_Part("many", _ANY))
        elif character == "?":
            parts.append(_Part("one", _ANY))
        elif character == "[":
            at, source = _class(pattern, at)
            parts.append(_Part("one", source))
        elif character == "\\":
            if at == len(pattern):
                raise ValueError("it ends in a backslash")
            parts.append(_Part("one", _escaped(pattern[at])))
            at += 1
        else:
            parts.append(_Part("one", re.escape(character)))
    return parts


def _escaped(character: str) -> str:
    """What a backslash makes of a character: moby leaves both to Go's regexp, where letters have meanings."""
    if character.isascii() and not character.isalnum():
        return re.escape(character)
    if character not in _ESCAPES:
        raise ValueError(f"a backslash before {character!r} means nothing")
    return _ESCAPES[character]


def _class(pattern: str, at: int) -> tuple[int, str]:
    """A bracket expression that starts at `at`, by the grammar of Go's filepath.Match."""
    negated = pattern[at : at + 1] == "^"
    at += negated
    ranges: list[str] = []
    while True:
        if pattern[at : at + 1] == "]" and ranges:
            return at + 1, f"[{'^' if negated else ''}{''.join(ranges)}]"
        at, low = _member(pattern, at)
        high = low
        if pattern[at : at + 1] == "-":
            at, high = _member(pattern, at + 1)
        if high < low:
            raise ValueError("a range in its brackets is the wrong way round")
        ranges.append(re.escape(low) if low == high else f"{re.escape(low)}-{re.escape(high)}")


def _member(pattern: str, at: int) -> tuple[int, str]:
    character = pattern[at : at + 1]
    if character in ("", "-", "]"):
        raise ValueError("its brackets are not closed or empty")
    if character == "\\":
        at += 1
        character = pattern[at : at + 1]
        if not character:
            raise ValueError("it ends in a backslash")
    return at + 1, character


def _stepping(parts: list[_Part]) -> Callable[[str], bool]:
    """All ways to match at once, one bit per part that comes next: linear in the path (a hostile pattern is a request).

    Bit i of `state` is set when the parts before i have matched what was read, of `inside` when part i, a `deep` one,
    is swallowing directories.
    """
    count = len(parts)
    end = 1 << count
    expressions = [re.compile(part.source) for part in parts]
    steps: dict[str, tuple[int, int, int]] = {}
    optional = sum(1 << i for i, part in enumerate(parts) if part.kind != "one")
    deep = sum(1 << i for i, part in enumerate(parts) if part.kind == "deep")

    def closed(state: int) -> int:
        """With everything that may match nothing passed over."""
        while True:
            wider = state | (state & optional) << 1
            if wider == state:
                return state
            state = wider

    def step(character: str) -> tuple[int, int, int]:
        found = steps.get(character)
        if found is None:
            taken = [i for i in range(count) if expressions[i].match(character)]
            found = (
                sum(1 << i for i in taken if parts[i].kind == "one"),
                sum(1 << i for i in taken if parts[i].kind in ("many", "rest")),
                sum(1 << i for i in taken if parts[i].kind == "deep"),
            )
            if len(steps) < 1024:
                steps[character] = found
        return found

    def matches(path: str) -> bool:
        state = closed(1)
        inside = 0
        for character in path:
            one, many, dot = step(character)
            inside = (inside | state & deep) & (deep if character == "/" else dot)
            state = (state & one) << 1 | state & many
            if character == "/":
                state |= inside << 1
            state = closed(state)
            if not state and not inside:
                return False
        return bool(state & end)

    return matches
