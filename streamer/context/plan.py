"""A decided build context, and the choices that all kinds have in common."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from streamer.export.plan import ExportPlan
from streamer.tar.compression import Compression

DOCKERFILE = b"Dockerfile"
IGNORE_FILE = b".dockerignore"

ROOT = (0, 0)


class Owner(enum.StrEnum):
    """Whose the files of a context are: as they are, or all root's, as the docker command sends them."""

    KEEP = "keep"
    ROOT = "root"

    @property
    def pair(self) -> tuple[int, int] | None:
        """User and group for all, None to keep them."""
        return ROOT if self is Owner.ROOT else None


@dataclass(frozen=True, slots=True)
class Choices:
    """What a caller may choose about a context. `dockerfile` is the name in it, None for the usual one."""

    owner: Owner = Owner.ROOT
    compression: Compression = Compression.NONE
    dockerfile: bytes | None = None


@dataclass(frozen=True, slots=True)
class Context:
    """One context: `plan` makes its archive, in which `dockerfile` is the Dockerfile's name."""

    plan: ExportPlan
    dockerfile: bytes = DOCKERFILE
