"""Listening: addresses, the runner and its time-outs."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import os
import socket
import stat
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

import anyio.lowlevel
from aiohttp import web
from aiohttp.http_parser import HttpRequestParser

from streamer.errors import Conflict, InvalidRequest, NotFound, NotPermitted, StreamerError
from streamer.web.connection import Connection

_BACKLOG = 512
_REFUSALS: dict[int, type[StreamerError]] = {
    errno.ENOENT: NotFound,
    errno.ENOTDIR: NotFound,
    errno.EACCES: NotPermitted,
    errno.EPERM: NotPermitted,
}
_KEEPALIVE = 75.0
_LINGERING = 1.0
"""Seconds in which a client may go on with a body that nobody wants, so that it finds the answer and not a reset."""
_CLEANUP = 10.0
"""Seconds for closing connections, also when the service itself is being cancelled."""
_SHUTDOWN = 1.0
"""Seconds for aiohttp's own shutdown (it may take twice that): every export was ended before it begins."""


class _Unexpected(logging.Filter):
    """Keeps tracebacks of connections that were lost, or broken off on purpose, out of aiohttp's log: `respond` has
    told their cause already."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], ConnectionError | web.RequestPayloadError))


_log = logging.getLogger("streamer.http")
_log.addFilter(_Unexpected())


class Server:
    """A running server: where it listens, and how to stop taking connections while open ones go on."""

    def __init__(self) -> None:
        self.addresses: list[str] = []
        """As clients reach them: `http://127.0.0.1:8080`, `unix:/run/streamer.sock`."""
        self._open: list[tuple[asyncio.Server, socket.socket]] = []

    async def start(self, connection: Callable[[], Connection], listener: socket.socket, address: str) -> None:
        opened = await asyncio.get_running_loop().create_server(connection, sock=listener, backlog=_BACKLOG)
        self._open.append((opened, listener))
        self.addresses.append(address)

    async def close_listeners(self) -> None:
        """Take no new connection; open ones go on."""
        loop = asyncio.get_running_loop()
        for _, listener in self._open:
            loop.remove_reader(listener.fileno())
        # A connection accepted in this very moment belongs to nobody until its callbacks have run; a server closed
        # before that leaves its socket open (and, in Python 3.11, fails an assertion).
        for _ in range(4):
            await anyio.lowlevel.checkpoint()
        while self._open:
            opened, _ = self._open.pop()
            opened.close()


@asynccontextmanager
async def listening(
    app: web.Application, addresses: Sequence[str], *, cancellation: bool = True
) -> AsyncIterator[Server]:
    """Serve the application on every address (HOST:PORT or unix:PATH) while the block is open.

    InvalidRequest for a malformed address, and for one that other machines can reach: there is no authentication yet.
    `cancellation`: whether a handler is cancelled when its client leaves (aiohttp's own default is no).
    """
    if not HttpRequestParser.__module__.endswith("_http_parser"):
        raise StreamerError("aiohttp's C parser is missing; its Python parser is not fit for hostile input")
    parsed = [_parse(address) for address in addresses]
    runner = web.AppRunner(app, handler_cancellation=cancellation, access_log=None, shutdown_timeout=_SHUTDOWN)
    await runner.setup()
    handlers = runner.server
    assert handlers is not None
    connection = partial(
        Connection,
        handlers,
        loop=asyncio.get_running_loop(),
        logger=_log,
        access_log=None,  # type: ignore[arg-type]  # which is how aiohttp wants it turned off
        keepalive_timeout=_KEEPALIVE,
        lingering_time=_LINGERING,
        auto_decompress=False,  # a bomb would be inflated for us; imports sniff and bound it themselves
    )
    server = Server()
    sockets: dict[str, tuple[int, int]] = {}
    try:
        for host, port, path in parsed:
            try:
                listener = _tcp(host, port) if path is None else _unix(path)
            except OSError as error:
                # asyncio and socket put the address into the words of some errors; the number says it plainly.
                said = os.strerror(error.errno) if error.errno else str(error)
                kind = _REFUSALS.get(error.errno or 0, Conflict)
                raise kind(f"cannot listen on {path or f'{host}:{port}'}: {said}") from error
            shown = f"[{host}]" if ":" in host else host
            address = f"http://{shown}:{listener.getsockname()[1]}" if path is None else f"unix:{path}"
            if path is not None:
                sockets[path] = _identity(path)
            await server.start(connection, listener, address)
        yield server
    finally:
        with anyio.move_on_after(_CLEANUP, shield=True):
            await server.close_listeners()
            await runner.cleanup()
        for path, identity in sockets.items():
            _remove_socket(path, identity)


def _parse(address: str) -> tuple[str, int, str | None]:
    if address.startswith("unix:"):
        path = address.removeprefix("unix:")
        if not path:
            raise InvalidRequest("cannot listen on unix: without a path", parameter="listen")
        return "", 0, path
    host, colon, number = address.rpartition(":")
    host = host.strip("[]") or "127.0.0.1"
    if not colon or not number.isdecimal() or int(number) > 65535:
        raise InvalidRequest(f"cannot listen on {address!r}: it is neither HOST:PORT nor unix:PATH", parameter="listen")
    try:
        loopback = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host).is_loopback
    except ValueError:
        raise InvalidRequest(
            f"cannot listen on {address!r}: give an IP address or localhost", parameter="listen"
        ) from None
    if not loopback:
        raise InvalidRequest(
            f"refusing to listen on {address}: other machines could read every file without authentication, which this "
            "version does not have; listen on 127.0.0.1 or unix:PATH and put a proxy in front",
            parameter="listen",
        )
    return host, int(number), None


def _tcp(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=_BACKLOG)


def _unix(path: str) -> socket.socket:
    """A unix socket that only its owner can use; a stale one of a dead server is replaced."""
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
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


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


def _identity(path: str) -> tuple[int, int]:
    status = os.lstat(path)
    return status.st_dev, status.st_ino


def _remove_socket(path: str, identity: tuple[int, int]) -> None:
    """Unlinks our own socket, not that of a server which took its place."""
    try:
        if _identity(path) == identity:
            os.unlink(path)
    except FileNotFoundError:
        pass
