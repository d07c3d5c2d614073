"""Texts as Go's `fmt` prints them: Docker's history holds what `%q` made of a list."""

from __future__ import annotations

from collections.abc import Iterable

_ESCAPES = {"\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v"}


def quoted(text: str, quote: str = '"') -> str:
    """The text in quotes, with backslashes before what needs one."""
    return quote + "".join(_escaped(char, quote) for char in text) + quote


def quoted_list(texts: Iterable[str]) -> str:
    """`["a" "b"]`."""
    return f"[{' '.join(map(quoted, texts))}]"


def plain_list(texts: Iterable[str]) -> str:
    """`[a b]`."""
    return f"[{' '.join(texts)}]"


def _escaped(char: str, quote: str) -> str:
    if char in (quote, "\\"):
        return "\\" + char
    if char in _ESCAPES:
        return _ESCAPES[char]
    code = ord(char)
    if char.isprintable():
        return char
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
