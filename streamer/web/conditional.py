"""Conditional requests (RFC 9110, 13): which of 200, 206, 304, 412 and 416 a request gets for what it asks for.

Archives have no modification date, so conditions on one hold never (If-Range) or are ignored (the others), as the RFC
wants. What is malformed is a condition that no version meets: If-Match then gives 412 and If-Range the whole.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from aiohttp import hdrs, web

from streamer.export.plan import Span
from streamer.web import ranges
from streamer.web.ranges import Range

_TAG = re.compile(r'(W/)?"([^\x00-\x20"\x7f]*)"')
_COMMA = re.compile(r"[ \t]*(?:,[ \t]*)+")


class Verdict(NamedTuple):
    status: int
    span: Span | None = None
    """The bytes to send; None where none are."""


@dataclass(frozen=True, slots=True)
class Tags:
    """A list of entity tags: the strong ones, and all of them; or any at all."""

    strong: frozenset[str] = frozenset()
    all: frozenset[str] = frozenset()
    any: bool = False


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request says about the version it wants, and about how much of it. Plain data: an export's own thread
    decides with it once it knows the outline."""

    head: bool
    range: Range | None = None
    if_range: Tags | None = None
    if_match: Tags | None = None
    if_none_match: Tags | None = None

    @classmethod
    def of(cls, request: web.Request) -> Asked:
        def tags(name: str) -> Tags | None:
            lines = request.headers.getall(name, None)
            return None if lines is None else parsed(lines)

        # Range is defined for GET only; HEAD tells what a GET without it would.
        head = request.method == hdrs.METH_HEAD
        wanted = None if head else ranges.parsed(request.headers.getall(hdrs.RANGE, ()))
        validator = request.headers.getall(hdrs.IF_RANGE, None)
        if_range = None if validator is None else one(validator)
        return cls(head, wanted, if_range, tags(hdrs.IF_MATCH), tags(hdrs.IF_NONE_MATCH))

    @property
    def plain(self) -> bool:
        """Whether the request speaks of the archive as it is: no other form of it has versions or ranges."""
        return bool(self.range or self.if_match or self.if_none_match)

    def unmet(self, etag: str | None) -> int | None:
        """The status if a precondition fails (RFC 9110, 13.2.2), None if the archive is to be sent; `etag` None where
        the archive has no version, which no tag names then."""
        match, none_match = self.if_match, self.if_none_match
        if match is not None and not (match.any or etag in match.strong):
            return 412
        if none_match is not None and (none_match.any or etag in none_match.all):
            return 304
        return None

    def verdict(self, size: int, etag: str | None) -> Verdict:
        """What an outlined archive is answered with; the whole of it where it has no version (`etag` None)."""
        status = self.unmet(etag)
        if status is not None:
            return Verdict(status)
        if self.head:
            return Verdict(200)
        if etag is None or self.range is None or (self.if_range is not None and etag not in self.if_range.strong):
            return Verdict(200, (0, size))
        span = self.range.of(size)
        return Verdict(206, span) if span else Verdict(416)


def one(lines: Sequence[str]) -> Tags:
    """The only entity tag there may be in If-Range; none for a date."""
    return parsed(lines) if len(lines) == 1 and _TAG.fullmatch(lines[0]) else Tags()


def parsed(lines: Sequence[str]) -> Tags:
    """The entity tags in a header's lines; none of them if anything is malformed."""
    text = ", ".join(lines).strip(" \t,")
    if text == "*":
        return Tags(any=True)
    strong, every, place = set(), set(), 0
    while place < len(text):
        found = _TAG.match(text, place)
        if found is None:
            return Tags()
        every.add(found[2])
        if not found[1]:
            strong.add(found[2])
        place = found.end()
        comma = _COMMA.match(text, place)
        if place < len(text) and comma is None:
            return Tags()
        place = comma.end() if comma else place
    return Tags(frozenset(strong), frozenset(every))
