"""Whose numbers the owners on disk are: engines that run as an ordinary user or whose root is remapped (subuid(5))."""

from __future__ import annotations

import pwd
from collections.abc import Iterable
from pathlib import Path

from streamer.mounts.mount import Ids, Range

_LENGTH = 65536
"""How many IDs useradd(8) gives to a user, unless told otherwise."""
_REMAPPED = "dockremap"
"""The user of `userns-remap: default`."""
_MAX_FILE = 1 << 20
_EVERYBODY = 1 << 32

Owned = tuple[str, int, int]
"""(user, first ID on disk, how many)"""


def remapped(uid: int, gid: int, etc: Path) -> Ids:
    """Of a remapped engine whose root is `uid`:`gid` on disk.

    Its data-root is named after these two and does not say whose ranges they begin: the user's whose first range in
    `/etc/subuid` begins there. If that is nobody (any more), one range of the usual length is taken.
    """
    return Ids(_beginning(uid, etc / "subuid"), _beginning(gid, etc / "subgid"))


def rootless(uid: int, gid: int, subuid: Path, subgid: Path) -> Ids:
    """Of an engine that runs as that ordinary user: root is the user, and the user's ranges follow from 1 on."""
    own = {str(uid)}
    try:
        own.add(pwd.getpwuid(uid).pw_name)
    except KeyError:
        pass  # an owner of another machine: the number has to do
    users, groups = (
        _placed(((start, count) for user, start, count in _ranges(file) if user in own), 1) for file in (subuid, subgid)
    )
    return Ids(((0, uid, 1), *users), ((0, gid, 1), *groups))


def _beginning(first: int, file: Path) -> tuple[Range, ...]:
    owned: dict[str, list[tuple[int, int]]] = {}
    for user, start, count in _ranges(file):
        owned.setdefault(user, []).append((start, count))
    for _, ranges in sorted(owned.items(), key=lambda item: item[0] != _REMAPPED):
        # moby takes them in ascending order (idtools), whatever the order of the lines.
        if min(ranges)[0] == first:
            return _placed(sorted(ranges), 0)
    return ((0, first, _LENGTH),)


def _placed(ranges: Iterable[tuple[int, int]], inside: int) -> tuple[Range, ...]:
    """The ranges one after another, as numbers from `inside` on."""
    placed = []
    for start, count in ranges:
        placed.append((inside, start, count))
        inside += count
    return tuple(placed)


def _ranges(file: Path) -> list[Owned]:
    """The well-formed lines of the file, none if it cannot be read."""
    try:
        with open(file, "rb") as opened:
            text = opened.read(_MAX_FILE).decode("utf-8", "replace")
    except OSError:
        return []
    found = []
    for line in text.splitlines():
        user, _, rest = line.strip().partition(":")
        start, _, count = rest.partition(":")
        if user and _is_number(start) and _is_number(count) and int(count):
            found.append((user, int(start), int(count)))
    return found


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and int(text[:20]) < _EVERYBODY
