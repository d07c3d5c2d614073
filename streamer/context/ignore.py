"""`.dockerignore`: its lines as patterns, and the two files that a builder needs whatever they say.

As moby's ignorefile and the docker command: see https://docs.docker.com/build/concepts/context/#dockerignore-files.
"""

from __future__ import annotations

import posixpath

from streamer.changeset.globs import compiled
from streamer.changeset.patterns import Patterns
from streamer.errors import InvalidRequest, LimitExceeded

LONGEST = 1 << 20
"""Bytes of a `.dockerignore`: patterns are asked for every file."""
_LINE = 64 << 10
_BOM = b"\xef\xbb\xbf"
_SPACE = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)
"""What Go's strings.TrimSpace takes away; Python's `strip` takes more."""


def parsed(data: bytes) -> list[str]:
    """The patterns of a `.dockerignore`, cleaned, in order. Bytes that are no UTF-8 are surrogates.

    LimitExceeded if it, or a line of it, is too long. Whether a pattern is valid only `Patterns` tells.
    """
    if len(data) > LONGEST:
        raise LimitExceeded(f"the .dockerignore is longer than {LONGEST} bytes", limit="ignore", value=LONGEST)
    found = []
    for line in data.removeprefix(_BOM).split(b"\n"):
        if len(line) >= _LINE:
            raise LimitExceeded(f"a line of the .dockerignore has {_LINE} bytes or more", limit="line", value=_LINE)
        text = line.decode("utf-8", "surrogateescape")
        if text.startswith("#"):
            continue
        text = text.strip(_SPACE)
        if text:
            negated = text.startswith("!")
            found.append("!" * negated + _clean(text[negated:].strip(_SPACE)))
    return found


def kept(patterns: list[str], dockerfile: bytes | None) -> list[str]:
    """The patterns with what brings `.dockerignore` and the Dockerfile (None: it lies elsewhere) back, if they leave
    those out. InvalidRequest names a malformed pattern."""
    Patterns(patterns)
    wanted = [".dockerignore"]
    if dockerfile is not None:
        wanted.append(dockerfile.decode("utf-8", "surrogateescape"))
    extended = list(patterns)
    for name in wanted:
        if _left_out(extended, name):
            extended.append("!" + name)
    return extended


def _clean(text: str) -> str:
    if not text:
        return text
    text = posixpath.normpath(text)
    if text.startswith("//"):  # normpath keeps two leading slashes, Go's Clean does not
        text = text[1:]
    return text[1:] if len(text) > 1 and text.startswith("/") else text


def _left_out(patterns: list[str], name: str) -> bool:
    """Whether the docker command believes that a file is left out. It asks in an older way than when it walks: of the
    directories above the file, a pattern is compared only with the one that has as many components as itself."""
    above = name.split("/")[:-1]
    left_out = False
    for pattern in patterns:
        negated = pattern.startswith("!")
        text = posixpath.normpath(pattern[negated:])
        try:
            matches = compiled(text)
        except ValueError as error:
            raise InvalidRequest(f"the pattern {pattern!r} is not valid: {error}") from None
        depth = len(text.split("/"))
        if matches(name) or (above and depth <= len(above) and matches("/".join(above[:depth]))):
            left_out = not negated
    return left_out
