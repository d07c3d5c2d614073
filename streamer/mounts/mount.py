"""Snapshots and mounts as plain values: a store says what lies where, a driver says what to mount, neither mounts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

OVERFLOW = 65534
"""What a kernel shows for an owner that a user namespace has no number for (`/proc/sys/kernel/overflowuid`)."""

Range: TypeAlias = tuple[int, int, int]
"""(first ID inside of the user namespace, first ID on disk, how many), as a line of `/proc/PID/uid_map`."""


@dataclass(frozen=True, slots=True)
class Ids:
    """How owners on disk are numbered inside of containers (user namespaces): ranges of users and of groups."""

    users: tuple[Range, ...]
    groups: tuple[Range, ...]

    def inside(self, uid: int, gid: int) -> tuple[int, int]:
        """The owner as a process in the container sees it; OVERFLOW for an ID that no range has."""
        return _inside(self.users, uid), _inside(self.groups, gid)


def _inside(ranges: tuple[Range, ...], number: int) -> int:
    for inside, outside, count in ranges:
        if outside <= number < outside + count:
            return inside + number - outside
    return OVERFLOW


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One file system as its store keeps it on disk: directories of layers, topmost first.

    `upper` is the writable directory of a container (None for an image's snapshot); `lowers` are the read-only ones
    below it, topmost first. `userxattr` says that overlay marks are `user.overlay.*` (stores written without
    privileges). Paths are absolute bytes. `ids` numbers the owners on disk as containers see them, for stores of
    ordinary users and of remapped engines; None where owners on disk are the real ones.
    """

    driver: str
    lowers: tuple[bytes, ...]
    upper: bytes | None = None
    userxattr: bool = False
    ids: Ids | None = None

    @property
    def layers(self) -> tuple[bytes, ...]:
        """Every directory, topmost first."""
        return self.lowers if self.upper is None else (self.upper, *self.lowers)


@dataclass(frozen=True, slots=True)
class Mount:
    """A read-only file system to be made: `layers` topmost first, all absolute.

    One layer means that directory itself, none an empty file system.
    """

    layers: tuple[bytes, ...]
    userxattr: bool = False
