"""Snapshots and mounts as plain values: a store says what lies where, a driver says what to mount, neither mounts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One file system as its store keeps it on disk: directories of layers, topmost first.

    `upper` is the writable directory of a container (None for an image's snapshot); `lowers` are the read-only ones
    below it, topmost first. `userxattr` says that overlay marks are `user.overlay.*` (stores written without
    privileges). Paths are absolute bytes. `owner` is the (uid, gid) on disk that stands for 0:0, for stores that an
    ordinary user wrote; None where owners on disk are the real ones.
    """

    driver: str
    lowers: tuple[bytes, ...]
    upper: bytes | None = None
    userxattr: bool = False
    owner: tuple[int, int] | None = None

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
