"""The text of a Dockerfile as logical lines: directives read, comments left out, continued lines joined."""

from __future__ import annotations

import re
from dataclasses import dataclass

from streamer.build.splitting import STRIPPED
from streamer.errors import InvalidRequest, LimitExceeded, Unsupported

MAX_SIZE = 1 << 20
"""Bytes of a Dockerfile."""
_LONGEST = 65_535
"""Bytes of one line, as Docker reads them."""
_MARK = b"\xef\xbb\xbf"
_DIRECTIVE = re.compile(r"#\s*([a-zA-Z][a-zA-Z0-9]*)\s*=\s*(.+?)\s*")
_DIRECTIVES = frozenset(("escape", "syntax", "check"))


@dataclass(frozen=True, slots=True)
class Line:
    """One logical line: without white space in front, and without what joined it from several."""

    number: int
    """Where it begins, from 1."""
    text: str


@dataclass(frozen=True, slots=True)
class Script:
    lines: tuple[Line, ...]
    escape: str
    """The character that escapes: a backslash, or a backquote by directive."""
    gaps: tuple[int, ...]
    """Numbers of the logical lines with an empty line inside, which Docker warns of."""


def read(data: bytes) -> Script:
    """The logical lines. What is not UTF-8 counts as U+FFFD.

    LimitExceeded for a file or line that is too long, Unsupported for a `# syntax=` directive, InvalidRequest for a
    directive that is repeated or has a wrong value.
    """
    if len(data) > MAX_SIZE:
        raise LimitExceeded(f"a Dockerfile may have {MAX_SIZE} bytes", limit=MAX_SIZE)
    physical = _physical(data)
    escape = _directives(physical)
    continued = re.compile(re.escape(escape) + r"[ \t]*\Z")
    lines: list[Line] = []
    gaps: list[int] = []
    at = 0
    while at < len(physical):
        first = at
        text = physical[at].lstrip(STRIPPED)
        at += 1
        if text.startswith("#"):
            continue
        text, joins = _joined(text, continued)
        if not joins and not text:
            continue
        gap = False
        while joins and at < len(physical):
            part = physical[at]
            at += 1
            bare = part.lstrip(STRIPPED)
            if bare.startswith("#"):
                continue
            if not bare:
                gap = True
                continue
            part, joins = _joined(part, continued)
            text += part
        lines.append(Line(first + 1, text))
        if gap:
            gaps.append(first + 1)
    return Script(tuple(lines), escape, tuple(gaps))


def _physical(data: bytes) -> list[str]:
    lines = data.removeprefix(_MARK).split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    for number, line in enumerate(lines, 1):
        if len(line) > _LONGEST:
            raise LimitExceeded(f"line {number} is longer than {_LONGEST} bytes", limit=_LONGEST, line=number)
    return [line.removesuffix(b"\r").decode("utf-8", "replace") for line in lines]


def _joined(text: str, continued: re.Pattern[str]) -> tuple[str, bool]:
    """The text without the escape at its end, and whether there was one: the next line then belongs to it."""
    match = continued.search(text)
    return (text, False) if match is None else (text[: match.start()], True)


def _directives(physical: list[str]) -> str:
    """Reads what stands in front of everything else, comments included; the escape character."""
    escape, seen = "\\", set()
    for number, line in enumerate(physical, 1):
        match = _DIRECTIVE.fullmatch(line.lstrip(STRIPPED))
        name = match[1].lower() if match else ""
        if match is None or name not in _DIRECTIVES:
            break
        if name in seen:
            raise InvalidRequest(f"line {number}: the directive {name} may be given once", line=number)
        seen.add(name)
        if name == "syntax":
            raise Unsupported(
                f"line {number}: `# syntax=` names an image with a language of its own, which only BuildKit runs; "
                "remove the line if the file needs none",
                line=number,
            )
        if name == "escape":
            if match[2] not in ("\\", "`"):
                raise InvalidRequest(
                    f"line {number}: the escape character is a backslash or a backquote, not {match[2][:20]!r}",
                    line=number,
                )
            escape = match[2]
    return escape
