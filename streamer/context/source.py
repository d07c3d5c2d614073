"""What the word means that a person gives as a context, told apart as the docker command does it."""

from __future__ import annotations

import enum
import re

_GIT = re.compile(r"https?://.*\.git(#.+)?")
_CREDENTIALS = re.compile(r"(?<=//)(?:[^/\s]*@|[^/:@\s]*:(?!\d*(?:[/?#]|$))[^@\s]*(?:@|$))")
_TRANSPORTS = ("git://", "ssh://", "github.com/", "git@")


class Kind(enum.StrEnum):
    INPUT = "standard input"
    DIRECTORY = "a directory"
    GIT = "a git repository"
    URL = "a URL"


def kind(source: str, *, is_directory: bool) -> Kind:
    """`is_directory`: whether there is a directory of that name, which comes first. What is nothing else is taken for
    the name of a directory that is not there."""
    if source == "-":
        return Kind.INPUT
    if is_directory:
        return Kind.DIRECTORY
    if _is_git(source):
        return Kind.GIT
    if source.startswith(("http://", "https://")):
        return Kind.URL
    return Kind.DIRECTORY


def _is_git(source: str) -> bool:
    if source.startswith(("http://", "https://")):
        return _GIT.fullmatch(source) is not None
    return source.startswith(_TRANSPORTS)


def masked(source: str) -> str:
    """The source for messages: without the credentials of a URL, those included that are not written as they have to
    be (a password with a slash or a # in it), and not too long."""
    return _CREDENTIALS.sub("***@", source[:500])
