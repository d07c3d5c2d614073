"""Variables and quotes in the arguments of instructions, as the Dockerfile reference has them.

`$NAME`, `${NAME}`, `${NAME:-WORD}` (WORD unless NAME has a value), `${NAME:+WORD}` (WORD if it has), `${NAME:?WORD}`
(an error unless it has); without the colon an empty value counts as one; `${NAME#PATTERN}`, `##`, `%`, `%%`,
`${NAME/PATTERN/TEXT}`, `//`. Single quotes keep all they enclose; in double quotes only `"`, `$` and the escape
character can be escaped.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from streamer.build import matching
from streamer.build.splitting import SPACES
from streamer.errors import InvalidRequest, LimitExceeded

_SPECIAL = frozenset("@*#?-$!0")
_SPACE = re.compile(f"[{re.escape(''.join(sorted(SPACES)))}]")
_DEEPEST = 32
_LONGEST = 1 << 20
"""Characters that one text may become: a few lines could otherwise double a value until the memory is full."""


def expand(text: str, values: Mapping[str, str], escape: str = "\\") -> str:
    """The text with variables replaced, and without quotes and escapes. InvalidRequest says what is wrong with it,
    LimitExceeded that it becomes too long."""
    return _Reader(text, values, escape).whole()[0]


def expand_words(text: str, values: Mapping[str, str], escape: str = "\\") -> tuple[str, ...]:
    """The same as words: white space that is not quoted divides them, that of values included."""
    return _Reader(text, values, escape).whole()[1]


class _Words:
    """Words in the making; the parts of the last one are joined once it is whole."""

    def __init__(self) -> None:
        self._found: list[str] = []
        self._parts: list[str] = []

    def split(self, text: str) -> None:
        first, *others = _SPACE.split(text)
        self._parts.append(first)
        for each in others:
            self._end()
            self._parts.append(each)

    def keep(self, text: str) -> None:
        self._parts.append(text)

    def all(self) -> tuple[str, ...]:
        self._end()
        return tuple(self._found)

    def _end(self) -> None:
        if word := "".join(self._parts):
            self._found.append(word)
        self._parts.clear()


def _check(size: int) -> None:
    if size > _LONGEST:
        raise LimitExceeded(f"more than {_LONGEST} characters come of a text with variables", limit=_LONGEST)


class _Reader:
    def __init__(self, text: str, values: Mapping[str, str], escape: str) -> None:
        self._text, self._values, self._escape = text, values, escape
        self._at = 0
        self._depth = 0

    def whole(self) -> tuple[str, tuple[str, ...]]:
        try:
            return self._until("", raw=False)
        except InvalidRequest as error:
            raise InvalidRequest(f"cannot expand {self._text[:200]!r}: {error}") from None

    def _peek(self) -> str:
        return self._text[self._at] if self._at < len(self._text) else ""

    def _next(self) -> str:
        char = self._peek()
        self._at += 1
        return char

    def _until(self, stop: str, *, raw: bool) -> tuple[str, tuple[str, ...]]:
        """Everything up to `stop` (empty: the end), which is left behind. With `raw`, escapes stay: a pattern reads
        them once more."""
        result: list[str] = []
        size = 0
        words = _Words()
        while char := self._peek():
            if char == stop:
                self._at += 1
                return "".join(result), words.all()
            if char == "'":
                words.keep(part := self._single())
            elif char == '"':
                words.keep(part := self._double(raw))
            elif char == "$":
                words.split(part := self._dollar())
            elif char == self._escape:
                self._at += 1
                part = (char if raw else "") + self._next()
                words.keep(part)
            else:
                self._at += 1
                words.split(part := char)
            result.append(part)
            size += len(part)
            _check(size)
        if stop:
            raise InvalidRequest(f"{stop} is missing")
        return "".join(result), words.all()

    def _single(self) -> str:
        end = self._text.find("'", self._at + 1)
        if end < 0:
            raise InvalidRequest("a single quote has no other")
        inner, self._at = self._text[self._at + 1 : end], end + 1
        return inner

    def _double(self, raw: bool) -> str:
        self._at += 1
        result = ""
        while char := self._peek():
            if char == '"':
                self._at += 1
                return result
            if char == "$":
                result += self._dollar()
                _check(len(result))
                continue
            self._at += 1
            if char == self._escape:
                if raw:
                    result += char
                following = self._peek()
                if not following:
                    break
                if following in ('"', "$", self._escape):
                    char = following
                    self._at += 1
            result += char
        raise InvalidRequest("a double quote has no other")

    def _dollar(self) -> str:
        self._at += 1
        if self._peek() != "{":
            name = self._name()
            return self._values.get(name, "") if name else "$"
        self._at += 1
        if self._peek() in ("{", "}", ":"):
            raise InvalidRequest("a name has to follow ${")
        self._depth += 1
        if self._depth > _DEEPEST:
            raise InvalidRequest(f"more than {_DEEPEST} substitutions are nested")
        name = self._name()
        value = self._substituted(name)
        self._depth -= 1
        return value

    def _substituted(self, name: str) -> str:
        """What follows the name in `${NAME…}`, up to and with the brace."""
        modifier = self._next()
        if modifier == "}":
            return self._values.get(name, "")
        if modifier == "":
            raise InvalidRequest("} is missing")
        if modifier == "/":
            return self._replaced(name)
        value = self._values.get(name)
        if modifier == ":":
            modifier = self._next()
            if modifier not in ("-", "+", "?"):
                raise InvalidRequest(f"a substitution cannot have the modifier :{modifier}")
            value = value or None
        if modifier in ("#", "%"):
            return self._trimmed(self._values.get(name, ""), modifier)
        if modifier not in ("-", "+", "?"):
            raise InvalidRequest(f"a substitution cannot have the modifier {modifier}")
        word, _ = self._until("}", raw=False)
        if modifier == "-":
            return word if value is None else value
        if modifier == "+":
            return "" if value is None else word
        if value is None:
            raise InvalidRequest(f"{name}: {word or 'it has to have a value'}")
        return value

    def _trimmed(self, value: str, modifier: str) -> str:
        pattern, _ = self._until("}", raw=True)
        longest = pattern.startswith(modifier)
        compiled = matching.compiled(pattern.removeprefix(modifier))
        trim = matching.without_prefix if modifier == "#" else matching.without_suffix
        return trim(value, compiled, longest)

    def _replaced(self, name: str) -> str:
        everywhere = self._peek() == "/"
        if everywhere:
            self._at += 1
        pattern, _ = self._until("/", raw=True)
        by, _ = self._until("}", raw=True)
        return matching.replaced(self._values.get(name, ""), matching.compiled(pattern), by, everywhere, _LONGEST)

    def _name(self) -> str:
        """Letters, digits and underscores; only digits where one comes first, and the shell's special parameters."""
        start = self._at
        if self._peek().isdecimal():
            while self._peek().isdecimal():
                self._at += 1
        elif self._peek() in _SPECIAL:
            self._at += 1
        else:
            while (char := self._peek()) and (char == "_" or char.isalpha() or char.isdecimal()):
                self._at += 1
        return self._text[start : self._at]
