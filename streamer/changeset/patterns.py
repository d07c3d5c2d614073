"""Patterns of `.dockerignore` files, matched as moby's patternmatcher does, and what they select of a walk."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from streamer.changeset.globs import compiled
from streamer.errors import InvalidRequest

_REMEMBERED: Final = 512


@dataclass(frozen=True, slots=True)
class _Pattern:
    text: str
    """Cleaned, without the `!`."""
    negated: bool
    matches: Callable[[str], bool]


class Patterns:
    """An ordered list of patterns: the last one that decides a path wins, `!` takes back what earlier ones matched.

    A pattern that matches a directory matches everything below it. Bad patterns raise InvalidRequest naming them.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        self._patterns: list[_Pattern] = []
        for written in patterns:
            text = written.strip()
            if not text:
                continue
            text = posixpath.normpath(text)
            if text.startswith("//"):  # normpath keeps two leading slashes, Go's Clean does not
                text = text[1:]
            negated = text.startswith("!")
            if text == "!":
                raise InvalidRequest(f"the pattern {written!r} is not valid: nothing follows the '!'")
            text = text[negated:]
            try:
                self._patterns.append(_Pattern(text, negated, compiled(text)))
            except (ValueError, re.error) as error:
                raise InvalidRequest(f"the pattern {written!r} is not valid: {error}") from None
        self.negates = any(pattern.negated for pattern in self._patterns)
        """Whether there is any `!` pattern."""
        self._directories: dict[str, tuple[bool, ...]] = {"": tuple(False for _ in self._patterns)}

    def __bool__(self) -> bool:
        return bool(self._patterns)

    def matches(self, path: str) -> bool:
        """Whether the list as a whole matches the relative path (`a/b`, no leading slash, not the root)."""
        above = self._matched_above(path.rpartition("/")[0])
        matched = False
        for pattern, by_parent in zip(self._patterns, above, strict=True):
            # One that could not change the verdict is not asked.
            if pattern.negated is matched and (by_parent or pattern.matches(path)):
                matched = not pattern.negated
        return matched

    def may_reinclude_below(self, directory: str) -> bool:
        """Whether a `!` pattern literally begins with the directory, so that a matched one is looked into all the same.

        As in moby, wildcards do not count: `!**/keep` brings nothing back out of an excluded directory.
        """
        return any(p.negated and f"{p.text}/".startswith(f"{directory}/") for p in self._patterns)

    def may_match_below(self, directory: str) -> bool:
        """Whether anything below the directory could match, judged by the parts of the patterns before a wildcard."""
        return any(not p.negated and _compatible(p.text, directory) for p in self._patterns)

    def _matched_above(self, directory: str) -> tuple[bool, ...]:
        """Which patterns match the directory or one above it. Remembered, for a walk asks again and again."""
        rest: list[str] = []
        while directory not in self._directories:
            rest.append(directory)
            directory = directory.rpartition("/")[0]
        known = self._directories[directory]
        while rest:
            path = rest.pop()
            known = tuple(above or pattern.matches(path) for above, pattern in zip(known, self._patterns, strict=True))
            if len(self._directories) >= _REMEMBERED:
                self._directories = {"": self._directories[""]}
            self._directories[path] = known
        return known


class Selection:
    """What of a tree is wanted: everything, or what `include` matches, without what `exclude` matches.

    Implements `walk.Select`. The root always belongs. Directories above something wanted are entered, but come
    themselves only if they are wanted as well.
    """

    def __init__(self, include: Patterns | None = None, exclude: Patterns | None = None) -> None:
        self._include = include if include else None
        self._exclude = exclude if exclude else None

    def emits(self, path: bytes, is_dir: bool, /) -> bool:
        """Whether the path is wanted."""
        if not path:
            return True
        text = _text(path)
        if self._exclude is not None and self._exclude.matches(text):
            return False
        return self._include is None or self._include.matches(text)

    def enters(self, path: bytes, /) -> bool:
        """Whether something below the directory may be wanted."""
        if not path:
            return True
        text = _text(path)
        if self._exclude is not None and self._exclude.matches(text) and not self._exclude.may_reinclude_below(text):
            return False
        include = self._include
        return include is None or include.matches(text) or include.may_match_below(text)


def _text(path: bytes) -> str:
    return path.decode("utf-8", "surrogateescape")


def _compatible(pattern: str, directory: str) -> bool:
    for wanted, there in zip(pattern.split("/"), directory.split("/"), strict=False):
        if any(special in wanted for special in "*?[\\"):
            return True
        if wanted != there:
            return False
    return True
