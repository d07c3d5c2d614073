"""`--chown=USER:GROUP`: names as the image's own /etc/passwd and /etc/group know them, or numbers."""

from __future__ import annotations

from streamer.build.view import Owner, View
from streamer.errors import InvalidRequest, LimitExceeded

_LONGEST = 4 << 20
_HIGHEST = (1 << 32) - 2


def owner(view: View, chown: str) -> Owner:
    """User and group. A user alone is the group's name as well. InvalidRequest for one that the image does not know."""
    user, given, group = chown.partition(":")
    if ":" in group or not user or (given and not group):
        raise InvalidRequest(f"--chown={chown[:100]} is not of the form USER or USER:GROUP")
    return _number(view, user, b"etc/passwd", "user"), _number(view, group or user, b"etc/group", "group")


def _number(view: View, text: str, file: bytes, what: str) -> int:
    if text.isascii() and text.isdigit():
        if len(text) > 10 or int(text) > _HIGHEST:
            raise InvalidRequest(f"there is no {what} with the number {text[:20]}")
        return int(text)
    data = view.read(view.real(file), _LONGEST + 1) or b""
    if len(data) > _LONGEST:
        raise LimitExceeded(f"/{file.decode()} of the image is longer than {_LONGEST} bytes", limit=_LONGEST)
    for line in data.split(b"\n"):
        name, *rest = line.split(b":")
        if name == text.encode("utf-8", "surrogateescape") and len(rest) >= 2 and rest[1].isdigit():
            return int(rest[1][:10])
    raise InvalidRequest(f"the image has no {what} {text[:100]!r} in /{file.decode()}")
