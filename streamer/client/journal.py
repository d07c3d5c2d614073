"""What is known of an unfinished file: which archive, which version of it, and which bytes of it are there."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from streamer.client.division import Span, Spans

LONGEST = 1 << 20
"""Bytes of a journal that are read; the bytes of one download never come in so many spans."""

_VERSION = 1


@dataclass(frozen=True, slots=True)
class Journal:
    request: str
    """The target of the request, the same whatever service it goes to: what version it is the ETag tells."""
    etag: str
    size: int
    spans: tuple[Span, ...]

    def encode(self) -> bytes:
        members = {
            "version": _VERSION,
            "request": self.request,
            "etag": self.etag,
            "size": self.size,
            "spans": self.spans,
        }
        return json.dumps(members).encode() + b"\n"


def decode(data: bytes, present: int) -> Journal | None:
    """The journal in `data`, beside a file of `present` bytes; None if it is none, or claims what cannot be."""
    try:
        members = json.loads(data)
        if members["version"] != _VERSION:
            return None
        request, etag, size, spans = (members[name] for name in ("request", "etag", "size", "spans"))
        found = [(start, stop) for start, stop in spans]
    except (ValueError, TypeError, LookupError, RecursionError):
        return None
    numbers = [size, *(number for span in found for number in span)]
    if not (isinstance(request, str) and isinstance(etag, str) and all(type(number) is int for number in numbers)):
        return None
    if not _ordered(found, min(size, present)):
        return None
    return Journal(request, etag, size, tuple(Spans(found)))


def _ordered(spans: Iterable[Span], limit: int) -> bool:
    position = 0
    for start, stop in spans:
        if not position <= start < stop <= limit:
            return False
        position = stop
    return True
