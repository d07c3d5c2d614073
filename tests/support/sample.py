"""The image that tests of whole commands and services work with: two layers, the upper one adds a file, hides one."""

from __future__ import annotations

from support import images

BASE = images.layer(images.directory("etc"), images.file("etc/name", b"base"), images.file("gone", b"x"))
TOP = images.layer(images.file("top", b"top" * 1000), images.whiteout("gone"))
IMAGE = images.image(BASE, TOP, names=["docker.io/library/sample:1"])


def archive() -> bytes:
    """IMAGE as Docker saves it, an OCI layout with manifest.json."""
    return images.pack(images.both(IMAGE))
