"""Listening: addresses, the runner and its time-outs."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import anyio
import anyio.lowlevel
from aiohttp import web
from aiohttp.http_parser import HttpRequestParser

from streamer.errors import InvalidRequest, StreamerError
from streamer.web import sockets
from streamer.web.addresses import OWNER_ONLY, Address, Protection, parsed, require_protection
from streamer.web.connection import Connection
from streamer.web.limits import Connections, Patience

_LINGERING = 1.0
"""Seconds in which a client may go on with a body that nobody wants, so that it finds the answer and not a reset."""
_HANDSHAKE = 10.0
_GOODBYE = 2.0
"""Seconds for the two sides to end TLS."""
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


@dataclass(frozen=True, slots=True)
class _Listener:
    server: asyncio.Server
    socket: socket.socket
    secured: bool


class Server:
    """A running server: where it listens, and how to stop taking connections while open ones go on."""

    def __init__(self, connection: Callable[[], Connection], tls: ssl.SSLContext | None) -> None:
        self.addresses: list[str] = []
        """As clients reach them: `http://127.0.0.1:8080`, `unix:/run/streamer.sock`."""
        self._connection = connection
        self._tls = tls
        self._open: list[_Listener] = []
        self._changing = anyio.Lock()

    async def start(self, listener: socket.socket) -> None:
        """Take connections of a socket that listens, and own it."""
        unix = listener.family == socket.AF_UNIX
        secured = self._tls is not None and not unix
        self._open.append(await self._listening(listener, secured))
        name = listener.getsockname()
        if unix:
            self.addresses.append(f"unix:{name}")
        else:
            self.addresses.append(f"{'https' if secured else 'http'}://{Address(name[0], name[1])}")

    async def renew(self, tls: ssl.SSLContext) -> None:
        """Let every connection from now on begin with this context; open ones go on as they began."""
        async with self._changing:
            self._tls = tls
            replaced: list[_Listener] = []
            try:
                for each in [each for each in self._open if each.secured]:
                    # Another descriptor of the same socket: whoever waits to be accepted loses nothing.
                    self._open.append(await self._again(each.socket.dup()))
                    self._open.remove(each)
                    replaced.append(each)
            finally:
                with anyio.move_on_after(_CLEANUP, shield=True):
                    await self._closed(replaced)

    async def close_listeners(self) -> None:
        """Take no new connection; open ones go on."""
        async with self._changing:
            closing, self._open = self._open, []
            await self._closed(closing)

    async def _again(self, listener: socket.socket) -> _Listener:
        try:
            return await self._listening(listener, secured=True)
        except BaseException:
            listener.close()
            raise

    async def _listening(self, listener: socket.socket, secured: bool) -> _Listener:
        loop = asyncio.get_running_loop()
        if secured:
            server = await loop.create_server(
                self._connection,
                sock=listener,
                backlog=sockets.BACKLOG,
                ssl=self._tls,
                ssl_handshake_timeout=_HANDSHAKE,
                ssl_shutdown_timeout=_GOODBYE,
            )
        else:
            server = await loop.create_server(self._connection, sock=listener, backlog=sockets.BACKLOG)
        return _Listener(server, listener, secured)

    async def _closed(self, closing: Sequence[_Listener]) -> None:
        loop = asyncio.get_running_loop()
        for each in closing:
            loop.remove_reader(each.socket.fileno())
        # A connection accepted in this very moment belongs to nobody until its callbacks have run; a server closed
        # before that leaves its socket open (and, in Python 3.11, fails an assertion).
        for _ in range(4):
            await anyio.lowlevel.checkpoint()
        for each in closing:
            each.server.close()


@asynccontextmanager
async def listening(
    app: web.Application,
    addresses: Sequence[str],
    *,
    inherited: Sequence[socket.socket] = (),
    cancellation: bool = True,
    protection: Protection = OWNER_ONLY,
    patience: Patience | None = None,
    connections: Connections | None = None,
) -> AsyncIterator[Server]:
    """Serve the application on every address (HOST:PORT or unix:PATH) while the block is open, and on sockets that
    somebody else has bound already, and which it owns from now on.

    InvalidRequest for a malformed address, and for one that other machines can reach without the protection that this
    needs. `cancellation`: whether a handler is cancelled when its client leaves (aiohttp's own default is no).
    """
    if not HttpRequestParser.__module__.endswith("_http_parser"):
        raise StreamerError("aiohttp's C parser is missing; its Python parser is not fit for hostile input")
    try:
        wanted = [parsed(address, protection) for address in addresses]
        for each in inherited:
            _check_inherited(each, protection)
    except InvalidRequest:
        for each in inherited:
            each.close()
        raise
    patience = patience or Patience()
    runner = web.AppRunner(app, handler_cancellation=cancellation, access_log=None, shutdown_timeout=_SHUTDOWN)
    await runner.setup()
    handlers = runner.server
    assert handlers is not None
    connection = partial(
        Connection,
        handlers,
        loop=asyncio.get_running_loop(),
        logger=_log,
        access_log=None,  # which is how aiohttp wants it turned off
        keepalive_timeout=patience.idle,
        lingering_time=_LINGERING,
        auto_decompress=False,  # a bomb would be inflated for us; imports sniff and bound it themselves
        books=connections or Connections(),
        patience=patience,
    )
    server = Server(connection, None if protection.tls is None else protection.tls.value)
    ours: dict[str, tuple[int, int]] = {}
    try:
        for each in inherited:
            await server.start(each)
        for address in wanted:
            listener = await sockets.bound(address, protection)
            if address.path is not None:
                ours[address.path] = sockets.identity(address.path)
            await server.start(listener)
        yield server
    finally:
        with anyio.move_on_after(_CLEANUP, shield=True):
            await server.close_listeners()
            await runner.cleanup()
        with anyio.CancelScope(shield=True):
            for path, identity in ours.items():
                await sockets.remove(path, identity)


def _check_inherited(listener: socket.socket, protection: Protection) -> None:
    """Who may use a unix socket, whoever made it has decided; an address is judged as one of our own."""
    if listener.family != socket.AF_UNIX:
        host, port = listener.getsockname()[:2]
        if not ipaddress.ip_address(host).is_loopback:
            require_protection(str(Address(host, port)), protection)
