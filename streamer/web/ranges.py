"""`Range: bytes=…` (RFC 9110, 14): one range of an archive. Everything else asks for the whole of it.

Several ranges would need a multipart body, which nobody who resumes a download asks for; a service may ignore them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from streamer.export.plan import Span

_SPEC = re.compile(r"([0-9]*)-([0-9]*)")
_MOST = 1 << 63
"""More bytes than any archive has. Python refuses to read numbers of some thousand digits."""


@dataclass(frozen=True, slots=True)
class Range:
    """What was asked for; `first` None: the last `last` bytes; `last` None: all from `first` on."""

    first: int | None
    last: int | None

    def of(self, size: int) -> Span | None:
        """The bytes of an archive of `size` that are meant; None if it has none of them."""
        if self.first is None:
            start, stop = max(0, size - (self.last or 0)), size
        else:
            start, stop = self.first, size if self.last is None else min(self.last + 1, size)
        return (start, stop) if start < stop else None

    def begins(self, size: int | None) -> int:
        """The first byte meant, as far as that can be told without knowing the size."""
        if self.first is not None:
            return self.first
        return 0 if size is None else max(0, size - (self.last or 0))


def parsed(lines: Sequence[str]) -> Range | None:
    """The one range of a header's lines; None if there is no header, or it is malformed, of another unit, or asks for
    several ranges."""
    if len(lines) != 1:
        return None
    unit, _, text = lines[0].partition("=")
    if unit.lower() != "bytes" or text != text.strip():
        return None
    specs = [spec for spec in (each.strip(" \t") for each in text.split(",")) if spec]
    found = _SPEC.fullmatch(specs[0]) if len(specs) == 1 else None
    if found is None or found[0] == "-":
        return None
    first, last = (_number(text) if text else None for text in found.groups())
    if first is not None and last is not None and last < first:
        return None
    return Range(first, last)


def _number(digits: str) -> int:
    digits = digits.lstrip("0")
    return int(digits or "0") if len(digits) < 19 else _MOST
