"""The values of a changeset: nodes found by walking a tree, and changes between two trees.

Paths are bytes relative to the root of the tree, without leading or trailing slash; the root is `b""`.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Mapping
from dataclasses import dataclass


class Kind(enum.IntEnum):
    """What happened to a path; numbers and letters as in Docker's `GET /containers/{id}/changes`."""

    MODIFY = 0
    ADD = 1
    DELETE = 2

    @property
    def letter(self) -> str:
        return "CAD"[self]


@dataclass(slots=True)
class Node:
    """One file of a tree, met by a walk.

    `parent` is a directory descriptor opened by the walk and `name` the last component in it, so that content, link
    target and xattrs are read without any path string. The descriptor is valid only until the walk is advanced.
    `data` is the file that has the content of this one, where an overlay copied up the attributes only (metacopy).
    `layer` counts the layers from the topmost: in which one it lies, where they are read one by one; else -1.
    `xattrs` are its extended attributes where others hold than those on the disk.
    """

    path: bytes
    name: bytes
    parent: int
    stat: os.stat_result
    data: Node | None = None
    layer: int = -1
    xattrs: Mapping[bytes, bytes] | None = None


@dataclass(slots=True)
class Change:
    """One path that differs between a parent and its child.

    `node` is the file as it is now (None for a DELETE found by comparing, where nothing is left; for a DELETE found in
    an overlay's upper it is the whiteout itself, whose owner and time go into the archive). `opaque` marks a directory
    that hides everything its parent had below it.
    """

    path: bytes
    kind: Kind
    node: Node | None = None
    opaque: bool = False
