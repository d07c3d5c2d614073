"""One line of a Dockerfile as its parts: the instruction's name, flags, words, NAME=VALUE pairs, a JSON array.

Quotes and escapes stay in the words: they are taken away by expansion, or not at all.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from streamer.errors import InvalidRequest

SPACES = frozenset("\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B))))
"""Unicode's white space. `str.isspace` would count the separators of ASCII (0x1c to 0x1f) as well."""

STRIPPED = "".join(SPACES)
_GAP = re.compile(r"[\t\v\f\r ]+")


def command(line: str) -> tuple[str, tuple[str, ...], str]:
    """The name in lower case, the flags (`--name=value`, unquoted) and the rest without white space around it."""
    name, *rest = _GAP.split(line.strip(STRIPPED), maxsplit=1)
    flags, text = _flags(rest[0]) if rest else ((), "")
    return name.lower(), flags, text.strip(STRIPPED)


def _flags(text: str) -> tuple[tuple[str, ...], str]:
    """The words in front that begin with `--`, and what follows them; a bare `--` ends them."""
    flags: list[str] = []
    at = 0
    while True:
        while at < len(text) and text[at] in SPACES:
            at += 1
        if not text.startswith("--", at):
            return tuple(flags), text[at:]
        word, at = _flag(text, at)
        if word == "--":
            return tuple(flags), text[at:]
        flags.append(word)


def _flag(text: str, at: int) -> tuple[str, int]:
    word, quote = "", ""
    while at < len(text):
        char = text[at]
        if not quote and char in SPACES:
            break
        at += 1
        if char == quote:
            quote = ""
        elif not quote and char in "'\"":
            quote = char
        elif char == "\\":  # whatever the escape directive says
            if at < len(text):
                word += text[at]
                at += 1
        else:
            word += char
    return word, at


def gaps(text: str) -> tuple[str, ...]:
    """The words between blanks, without any quoting."""
    return tuple(_GAP.split(text)) if text else ()


def words(text: str, escape: str) -> tuple[str, ...]:
    """The words between white space; in quotes, and after an escape, white space belongs to a word."""
    return tuple(_words(text, escape))


def _words(text: str, escape: str) -> Iterator[str]:
    word, quote, begun = "", "", False
    at, end = 0, len(text)
    while at < end:
        char = text[at]
        at += 1
        if not quote and char in SPACES:
            if begun:
                yield word
            word, begun = "", False
            continue
        if char == escape and quote != "'":
            if at == end:
                break  # nothing to escape: as if it were not there
            word += char + text[at]
            at += 1
            begun = True
            continue
        if char == quote:
            quote = ""
        elif not quote and char in "'\"":
            quote = char
        word += char
        begun = True
    if begun:
        yield word


def pairs(text: str, name: str, escape: str) -> tuple[tuple[str, str], ...]:
    """The pairs of `NAME=VALUE …`, or the one pair of `NAME VALUE`, which the first word decides. InvalidRequest for a
    word without `=`, and for a name without value."""
    found = words(text, escape)
    if not found:
        return ()
    if "=" not in found[0]:
        parts = _GAP.split(text, maxsplit=1)
        if len(parts) < 2:
            raise InvalidRequest(f"{name} needs a name and a value")
        return ((parts[0], parts[1]),)
    for word in found:
        if "=" not in word:
            raise InvalidRequest(f"{name} cannot take {word[:200]!r}: it is not of the form NAME=VALUE")
    return tuple((key, value) for key, _, value in (word.partition("=") for word in found))


def array(text: str) -> tuple[str, ...] | None:
    """The strings of a JSON array; None if it is something else. InvalidRequest for an array of other things."""
    text = text.lstrip(STRIPPED)
    if not text.startswith("["):
        return None
    try:
        # Numbers are refused in any case: no reason to compute large ones.
        items = json.loads(text, parse_int=float, parse_constant=_refused)
    except RecursionError:
        items = [None]
    except ValueError:
        return None
    if not all(isinstance(item, str) for item in items):
        raise InvalidRequest("a JSON array may hold nothing but strings here")
    # Half a pair of surrogates is no character.
    return tuple(item.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for item in items)


def _refused(text: str) -> None:
    raise ValueError(text)
