"""What a caller may do: kinds of requests, on which stores, to things of which names."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase


class Kind(enum.StrEnum):
    """What a request does. The first six are exports."""

    LAYER = "layer"
    DIFF = "diff"
    CONTAINER = "container"
    IMAGE = "image"
    ROOTFS = "rootfs"
    CHANGES = "changes"
    LIST = "list"
    IMPORT = "import"
    BUILD = "build"
    CONTEXT = "context"
    JOBS = "jobs"
    METRICS = "metrics"


READING = (Kind.LAYER, Kind.DIFF, Kind.CONTAINER, Kind.IMAGE, Kind.ROOTFS, Kind.CHANGES, Kind.LIST)
"""What changes nothing and tells nothing of the service itself: what a new token may do unless told otherwise."""


@dataclass(frozen=True, slots=True)
class Scope:
    """`stores` and `names` of None mean every one. A name is allowed that matches one of the patterns: `*` stands for
    anything, slashes too, `?` for one character, `[…]` for one of several. Case counts."""

    kinds: frozenset[Kind]
    stores: frozenset[str] | None = None
    names: tuple[str, ...] | None = None

    def store(self, name: str) -> bool:
        """Whether this store may be used."""
        return self.stores is None or name in self.stores

    def named(self, names: Iterable[str]) -> bool:
        """Whether a thing with any of these names may be read; one without a name only where every name may."""
        return self.names is None or any(fnmatchcase(name, pattern) for name in names for pattern in self.names)


EVERYTHING = Scope(frozenset(Kind))
NOTHING = Scope(frozenset(), frozenset(), ())
