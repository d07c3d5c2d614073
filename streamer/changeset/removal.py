"""Removing parts of a tree through descriptors: of any depth, never through a link, never outside."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

from streamer.changeset.descriptor import open_directory
from streamer.changeset.trail import Trail
from streamer.changeset.walk import listing

Keeps = Callable[[bytes], bool]
OnFile = Callable[[bytes], None]


def remove(parent: int, name: bytes, path: bytes, *, on_file: OnFile | None = None) -> None:
    """Removes `name` in the directory `parent`, with everything below it; `path` is what it is called.

    `on_file` is told of every regular file just before its name goes. Raises OSError; nothing there is not an error.
    """
    try:
        st = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if not stat.S_ISDIR(st.st_mode):
            if on_file is not None and stat.S_ISREG(st.st_mode):
                on_file(path)
            os.unlink(name, dir_fd=parent)
            return
        clear(open_directory(name, parent), path, on_file=on_file)
        os.rmdir(name, dir_fd=parent)
    except FileNotFoundError:
        return


def clear(directory: int, path: bytes, *, keeps: Keeps | None = None, on_file: OnFile | None = None) -> None:
    """Removes everything below `directory` (taken over and closed) but the paths that `keeps` wants.

    A directory that is kept loses its other children all the same, so its kept descendants must be wanted as well.
    """
    trail = Trail(directory, path)
    prefix = path + b"/" if path else b""
    names = listing(directory, path)
    waiting: list[tuple[list[bytes], int, bytes, bool]] = []
    try:
        while True:
            while names:
                name = names.pop()
                inside = prefix + name
                st = os.stat(name, dir_fd=trail.current, follow_symlinks=False)
                kept = keeps is not None and keeps(inside)
                if stat.S_ISDIR(st.st_mode):
                    below = open_directory(name, trail.current)
                    trail.enter(name, below, os.fstat(below))
                    waiting.append((names, len(prefix), name, kept))
                    names = listing(below, inside)
                    prefix = inside + b"/"
                elif not kept:
                    if on_file is not None and stat.S_ISREG(st.st_mode):
                        on_file(inside)
                    os.unlink(name, dir_fd=trail.current)
            if not waiting:
                return
            names, length, name, kept = waiting.pop()
            prefix = prefix[:length]
            trail.leave()
            if not kept:
                os.rmdir(name, dir_fd=trail.current)
    finally:
        trail.close()
