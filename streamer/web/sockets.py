"""Listening sockets: made with the mode they are to have from the first moment, and removed only if they are ours."""

from __future__ import annotations

import errno
import os
import socket
import stat

from streamer.errors import Conflict, NotFound, NotPermitted, StreamerError
from streamer.web.addresses import Address, Protection

BACKLOG = 512
_REFUSALS: dict[int, type[StreamerError]] = {
    errno.ENOENT: NotFound,
    errno.ENOTDIR: NotFound,
    errno.EACCES: NotPermitted,
    errno.EPERM: NotPermitted,
}


def bound(address: Address, protection: Protection) -> socket.socket:
    """A socket that listens there. Conflict if the address is in use, NotFound or NotPermitted for a path."""
    try:
        return _tcp(address) if address.path is None else _unix(address.path, protection)
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
        if not stat.S_ISSOCK(status.st_mode) or _answers(path):
            raise Conflict(f"cannot listen on unix:{path}: it exists and is in use")
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


def _answers(path: str) -> bool:
    """Whether somebody has the socket open. Only a refusal says no: one of another type or with a full queue lives."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return False
        except OSError:
            return True
        return True


def identity(path: str) -> tuple[int, int]:
    """What tells our own socket from one that took its place."""
    status = os.lstat(path)
    return status.st_dev, status.st_ino


def remove(path: str, ours: tuple[int, int]) -> None:
    """Unlinks our own socket, not that of a server which took its place."""
    try:
        if identity(path) == ours:
            os.unlink(path)
    except FileNotFoundError:
        pass
