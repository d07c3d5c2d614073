"""What storage.conf says about a store besides where it is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

DRIVERS = ("overlay", "vfs")
"""Drivers whose layers can be read, in the order in which they are looked for."""


@dataclass(frozen=True, slots=True)
class StorageOptions:
    """`driver` is the one to prefer where a graph root holds layers of several; `imagestore` holds the images where
    they lie apart from containers; `additional` are read-only stores whose images can be used as well, in order.

    `subuid` and `subgid` say how owners are numbered in the stores of ordinary users (subuid(5)).
    """

    driver: str | None = None
    imagestore: Path | None = None
    additional: tuple[Path, ...] = ()
    subuid: Path = Path("/etc/subuid")
    subgid: Path = Path("/etc/subgid")
