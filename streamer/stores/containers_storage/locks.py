"""The lock files of containers/storage, held shared for the moment in which its lists are read.

A shared lock keeps every engine's command from starting, so that it may be held for milliseconds only. Engines lock the
whole file with fcntl(2) (`lockfile` of containers/storage). Ours belong to the open file description: those of the
process would be dropped as soon as another thread closes any descriptor of the same file.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
from collections.abc import Iterable, Iterator

from streamer.stores.containers_storage.places import Place

_FLOCK = struct.Struct("@hhqqi0q")  # struct flock: type, whence, start, length (0: all), PID (0 for these locks)
_SHARED = _FLOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0)


@contextlib.contextmanager
def shared(files: Iterable[tuple[Place, str]]) -> Iterator[bool]:
    """Takes the locks in order without waiting for any; whether all were got. They are released with the block.

    A lock file that is not there, or that this user may not open, is one that nobody can be asked by: on media that
    cannot be written to, and in other users' stores.
    """
    with contextlib.ExitStack() as stack:
        yield all(_locked(place, name, stack) for place, name in files)


def _locked(place: Place, name: str, stack: contextlib.ExitStack) -> bool:
    try:
        fd = place.open(name)
    except OSError:
        return True
    stack.callback(os.close, fd)
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _SHARED)
    except OSError as error:
        # What cannot lock at all (ENOLCK, EINVAL: some network and FUSE file systems) is read without.
        return error.errno not in (errno.EAGAIN, errno.EACCES)
    return True
