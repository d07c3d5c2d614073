"""One directory below `staging/` per import or commit in progress, and the sweep of what killed processes left."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass

from streamer.log import logger
from streamer.stores.local import state as states
from streamer.stores.local.state import State

log = logger("streamer.stores")

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(slots=True)
class Staging:
    """A private directory whose flock says that its process is alive. Left through `staging`, it is gone."""

    state: State
    name: str
    fd: int

    def folder(self, name: str, mode: int = 0o700) -> int:
        """Makes a directory in it; a descriptor that the caller closes."""
        os.mkdir(name, mode, dir_fd=self.fd)
        return os.open(name, states.DIRECTORY, dir_fd=self.fd)

    def settle(self) -> None:
        """Makes everything written so far durable: one flush of the file system, cheaper than one per file."""
        if _libc.syncfs(self.fd) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def publish(self, name: str, folder: str, final: str) -> None:
        """Moves a settled directory to its final place, durably. The caller holds the store's lock and commits the row
        next; what lies there without a row is a leftover of a killed process and makes way."""
        self.state.discard(folder, final)
        target = self.state.folders[folder]
        os.rename(name, final, src_dir_fd=self.fd, dst_dir_fd=target)
        os.fsync(target)


@contextlib.contextmanager
def staging(state: State) -> Iterator[Staging]:
    """A new staging directory; deleted with whatever is still in it on every way out. Entered under the store's lock,
    so that no sweep meets the directory before its flock is taken."""
    name = secrets.token_hex(8)
    with states.storage("a new directory"):
        os.mkdir(name, 0o700, dir_fd=state.folders["staging"])
        fd = os.open(name, states.DIRECTORY, dir_fd=state.folders["staging"])
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    try:
        yield Staging(state, name, fd)
    finally:
        os.close(fd)
        with contextlib.suppress(OSError):  # then the next start sweeps it; the error that brought us here counts
            state.discard("staging", name)
        state.empty_trash()


def sweep_abandoned(state: State) -> None:
    """Moves staging directories of dead processes into the trash. The caller holds the store's lock."""
    for name in filter(states.is_ours, os.listdir(state.folders["staging"])):
        fd = states.held(state.folders["staging"], name, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if fd is not None:
            state.discard("staging", name)
            os.close(fd)


def sweep_orphans(state: State, folder: str, known: frozenset[str]) -> bool:
    """Moves layers or containers that no row names into the trash. The caller holds the store's lock, so nobody is
    between moving a directory in and committing its row.

    Containers in which somebody has left something stay: a database from a backup knows nothing of what came after it.
    Whether there are any: the layers that they stand on have no rows either.
    """
    kept = False
    for name in os.listdir(state.folders[folder]):
        if name in known or not states.is_ours(name):
            continue
        if folder == "containers" and not state.forsaken(name):
            kept = True
            log.warning("a container without a row is left as it is", directory=f"{state.path}/containers/{name}")
            continue
        state.discard(folder, name)
    return kept
