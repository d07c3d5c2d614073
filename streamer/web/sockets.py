"""Listening sockets: made with the mode they are to have from the first moment, and removed only if they are ours.

Nobody can replace a dead server's unix socket in one step, so whoever looks, removes and binds holds the flock of the
directory around all three: of servers that start at once on one path one wins. The lock is the directory's because that
is there anyway: a file of its own, or a temporary name, would stay behind whoever is killed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from streamer.errors import Conflict, NotFound, NotPermitted, StreamerError
from streamer.log import logger
from streamer.web.addresses import Address, Protection

log = logger("streamer.web")

BACKLOG = 512
_POLL = 0.01
"""Seconds between two looks at a lock that another process holds."""
_LOCKED = 5.0
"""Seconds for which a directory may be locked. A server holds it for microseconds; but whoever may read a directory may
lock it, and nobody should wait for that."""
_REFUSALS: dict[int, type[StreamerError]] = {
    errno.ENOENT: NotFound,
    errno.ENOTDIR: NotFound,
    errno.EACCES: NotPermitted,
    errno.EPERM: NotPermitted,
}


async def bound(address: Address, protection: Protection) -> socket.socket:
    """A socket that listens there. Conflict if the address is in use, NotFound or NotPermitted for a path."""
    try:
        if address.path is None:
            return _tcp(address)
        async with _locked(address.path):
            return _unix(address.path, protection)
    except OSError as error:
        # asyncio and socket put the address into the words of some errors; the number says it plainly.
        said = os.strerror(error.errno) if error.errno else str(error)
        kind = _REFUSALS.get(error.errno or 0, Conflict)
        raise kind(f"cannot listen on {address.path or address}: {said}") from error


def _tcp(address: Address) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    return socket.create_server((address.host, address.port), family=family, backlog=BACKLOG)


def _unix(path: str, protection: Protection) -> socket.socket:
    """A unix socket that nobody can use but whom its mode lets; a stale one of a dead server is replaced."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        pass
    else:
        if not stat.S_ISSOCK(status.st_mode):
            raise Conflict(f"cannot listen on unix:{path}: there is something else than a socket")
        if _alive(path):
            raise Conflict(f"cannot listen on unix:{path}: the socket is in use by another server")
        os.unlink(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # bind takes the mode from the descriptor: a chmod afterwards would leave a window.
        os.fchmod(listener.fileno(), 0o600)
        listener.bind(path)
        _hand_over(path, protection)
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def _hand_over(path: str, protection: Protection) -> None:
    """Owner before mode, both before anybody can connect: in between the socket is ours alone."""
    try:
        if protection.socket_owner is not None:
            os.chown(path, *protection.socket_owner, follow_symlinks=False)
        if protection.socket_mode != 0o600:
            os.chmod(path, protection.socket_mode)
    except BaseException:
        os.unlink(path)
        raise


@asynccontextmanager
async def _locked(path: str) -> AsyncIterator[None]:
    """The flock of a socket's directory. OSError; Conflict if somebody keeps it."""
    folder = os.path.dirname(path) or "."
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # Asked again and again, not waited for in a thread: such a thread could not be called back.
        until = anyio.current_time() + _LOCKED
        while True:
            if _taken(fd):
                break
            if anyio.current_time() > until:
                raise Conflict(
                    f"cannot listen on unix:{path}: another process keeps {folder} locked (flock); end it first"
                )
            await anyio.sleep(_POLL)
        try:
            yield
        finally:
            # Not by closing alone: a child that was just forked has the descriptor until it executes its program.
            fcntl.flock(fd, fcntl.LOCK_UN)
    finally:
        os.close(fd)


def _taken(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _alive(path: str) -> bool:
    """Whether somebody has the socket open, listening or not yet.

    A datagram socket asks: one of another type is refused as of the wrong type, with nothing put into its queue, which
    may be full; only one that nobody has refuses the connection.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True
        return True


def identity(path: str) -> tuple[int, int]:
    """What tells our own socket from one that took its place."""
    status = os.lstat(path)
    return status.st_dev, status.st_ino


async def remove(path: str, ours: tuple[int, int]) -> None:
    """Unlinks our own socket, which is closed; not that of a server which took its place, and perhaps its number.

    One that cannot be unlinked stays: whoever listens there next replaces it.
    """
    try:
        async with _locked(path):
            if identity(path) == ours and not _alive(path):
                os.unlink(path)
    except (OSError, Conflict) as error:
        if not isinstance(error, FileNotFoundError):
            log.warning("socket left behind", path=path, error=str(error))
