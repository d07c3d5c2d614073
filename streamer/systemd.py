"""What systemd says to a service and wants to hear from it: sd_notify(3) and sd_listen_fds(3), in plain Python."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping

import anyio

from streamer.errors import InvalidRequest
from streamer.log import logger

log = logger("streamer.systemd")

_FIRST = 3
"""The first descriptor that is handed over."""


class Notifier:
    """Tells the service manager how things stand; says nothing where there is none."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        self._watchdog = _watchdog(environment)

    def ready(self, status: str) -> None:
        self._tell("READY=1", f"STATUS={status}")

    def stopping(self, status: str) -> None:
        self._tell("STOPPING=1", f"STATUS={status}")

    def reloading(self) -> None:
        """To be followed by `ready`."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    async def watchdog(self) -> None:
        """Says twice in each period that the event loop turns, until cancelled; nothing where nobody wants to hear."""
        if self._watchdog is None:
            return
        while True:
            self._tell("WATCHDOG=1")
            await anyio.sleep(self._watchdog / 2)

    def _tell(self, *lines: str) -> None:
        if not self._address:
            return
        name = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)  # a manager that hangs must not stop the service
                sender.sendto("\n".join(lines).encode(), name)
        except OSError as error:
            log.warning("service manager not told", what=lines[0], error=error.strerror)


def _watchdog(environment: Mapping[str, str]) -> float | None:
    """Seconds after which silence counts as death, None if nobody watches this process."""
    period, process = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", "")
    if not period.isdecimal() or int(period) == 0 or process not in ("", str(os.getpid())):
        return None
    return int(period) / 1e6


def inherited(environment: Mapping[str, str]) -> list[socket.socket]:
    """The listening sockets that this process was started with (socket activation); the caller owns them.

    InvalidRequest for a descriptor that is no listening stream socket: a datagram socket, or one with Accept=yes.
    """
    count = environment.get("LISTEN_FDS", "")
    if environment.get("LISTEN_PID") != str(os.getpid()) or not count.isdecimal():
        return []
    found: list[socket.socket] = []
    try:
        for fd in range(_FIRST, _FIRST + int(count)):
            os.set_inheritable(fd, False)
            found.append(socket.socket(fileno=fd))
            stream = found[-1].type == socket.SOCK_STREAM
            if not stream or not found[-1].getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                raise InvalidRequest(f"descriptor {fd} of LISTEN_FDS does not listen: give ListenStream=, Accept=no")
            found[-1].setblocking(False)
    except OSError as error:
        _close(found)
        raise InvalidRequest(f"LISTEN_FDS={count}, but there are not as many sockets: {error.strerror}") from error
    except InvalidRequest:
        _close(found)
        raise
    return found


def _close(sockets: list[socket.socket]) -> None:
    for each in sockets:
        each.close()
