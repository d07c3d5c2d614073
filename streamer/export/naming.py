"""File names for downloads: safe on every system, made by us and never by what came in."""

from __future__ import annotations

import re

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


def basename(name: str) -> str:
    """A file name without suffix from an image or container name: `docker.io/a/b:1` gives `docker.io-a-b-1`."""
    return _UNSAFE.sub("-", name).strip("-.")[:120] or "export"
