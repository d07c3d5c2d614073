"""File names for downloads: safe on every system, made by us and never by what came in."""

from __future__ import annotations

import re
from collections.abc import Sequence

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


def basename(name: str) -> str:
    """A file name without suffix from an image or container name: `docker.io/a/b:1` gives `docker.io-a-b-1`."""
    return _UNSAFE.sub("-", name).strip("-.")[:120] or "export"


_ENDINGS = {"rootfs": "-rootfs", "diff": "-diff", "changes": "-changes"}


def stem(kind: str, names: Sequence[str]) -> str:
    """The file name without suffix of an export of this kind, a value of `export.plan.Kind`, of what has these names:
    several images, a layer by its digest, or one of anything else."""
    if kind == "layer":
        return f"layer-{basename(names[0].rpartition(':')[2])[:12]}"
    return "images" if len(names) > 1 else basename(names[0]) + _ENDINGS.get(kind, "")
