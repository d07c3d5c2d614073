"""Telling what vanished from what a mounted overlay lists and yet does not have."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeAlias

from streamer.changeset.descriptor import DIRECTORY, open_below

Vanished: TypeAlias = Callable[[bytes], None]


def unless_whiteout(root: int, on_vanished: Vanished, *, live: bool) -> Vanished:
    """`on_vanished` for a walk of the overlay mounted at `root`, which is not told of whiteouts.

    In a directory that only one layer has, the kernel's overlayfs lists that layer's own names, among them whiteouts of
    nothing; a look-up of one finds nothing. In a layer that is not `live`, a name that is still listed but not found is
    one. In one that is, a merged directory goes on listing what was removed meanwhile as long as it is open: there only
    what is listed as no file, directory or link is taken for one, as a whiteout (a character device) is.
    """
    known: tuple[bytes, frozenset[bytes]] | None = None

    def missing(path: bytes) -> None:
        nonlocal known
        above, _, name = path.rpartition(b"/")
        if known is None or known[0] != above:
            known = above, _whiteouts(root, above, live)
        if name not in known[1]:
            on_vanished(path)

    return missing


def _whiteouts(root: int, directory: bytes, live: bool) -> frozenset[bytes]:
    """Names in the directory, if it is still there, that can only be whiteouts if they are not found."""
    try:
        fd = open_below(root, directory, DIRECTORY)
    except OSError:
        return frozenset()
    try:
        with os.scandir(fd) as entries:
            return frozenset(
                os.fsencode(entry.name)
                for entry in entries
                if not live
                or not (
                    entry.is_symlink() or entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False)
                )
            )
    except OSError:
        return frozenset()
    finally:
        os.close(fd)
