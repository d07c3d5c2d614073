"""Who gets in, from the settings: tokens, certificates, sockets and limits; read again while the service runs."""

from __future__ import annotations

import grp
import pwd
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import anyio
import anyio.abc
import anyio.to_thread

from streamer.access.secret import contents
from streamer.access.token import Token, parsed
from streamer.access.watch import Watched, follow, taken_over
from streamer.errors import InvalidRequest
from streamer.settings import Settings
from streamer.web.addresses import Protection
from streamer.web.limits import Connections, Patience, Shares
from streamer.web.tls import certificates


@dataclass(frozen=True, slots=True)
class Entrance:
    """Everything that stands between the network and the application."""

    keys: Watched[tuple[Token, ...]] | None
    protection: Protection
    patience: Patience
    connections: Connections
    shares: Shares

    def follow(self, tasks: anyio.abc.TaskGroup, renew: Callable[[ssl.SSLContext], Awaitable[None]]) -> None:
        """Watch over the files in these tasks, until they are cancelled; `renew` gets each new context."""
        if self.keys is not None:
            tasks.start_soon(follow, self.keys)
        tls = self.protection.tls
        if tls is not None:
            tasks.start_soon(follow, tls, lambda: renew(tls.value))

    async def reload(self, renew: Callable[[ssl.SSLContext], Awaitable[None]]) -> None:
        """Read the files again now."""
        if self.keys is not None:
            await anyio.to_thread.run_sync(lambda keys: keys.refresh(force=True), self.keys, abandon_on_cancel=True)
        tls = self.protection.tls
        if tls is not None and await anyio.to_thread.run_sync(lambda: tls.refresh(force=True), abandon_on_cancel=True):
            await taken_over(lambda: renew(tls.value))


def entrance(settings: Settings) -> Entrance:
    """Reads the files. NotFound, NotPermitted or InvalidRequest for one that cannot be used."""
    keys = None
    if settings.tokens is not None:
        path = str(settings.tokens)
        keys = Watched("tokens", [path], lambda: parsed(contents(path, "tokens"), path))
    tls = None
    if settings.tls_certificate is not None:
        names = (settings.tls_certificate, settings.tls_key, settings.tls_client_ca)
        certificate, key, client_ca = (str(name) if name is not None else None for name in names)
        assert certificate is not None
        tls = certificates(certificate, key, client_ca)
    return Entrance(
        keys,
        Protection(
            tls=tls,
            authenticated=keys is not None or settings.tls_client_ca is not None,
            plain=settings.insecure_http,
            socket_mode=settings.socket_mode,
            socket_owner=_owner(settings.socket_owner),
        ),
        Patience(
            headers=settings.header_timeout,
            idle=settings.idle_timeout,
            # Later than the time of a client that only stalls, which is told from one that is gone.
            unacknowledged=settings.stall_timeout * 1.5 + 5,
        ),
        Connections(settings.max_connections, settings.max_connections_per_peer or None),
        Shares(settings.request_rate or None, settings.max_exports_per_client or None),
    )


def _owner(text: str) -> tuple[int, int] | None:
    """User and group as numbers, -1 for one that is not named. InvalidRequest for one that is not known here."""
    if not text:
        return None
    user, _, group = text.partition(":")
    try:
        uid = -1 if not user else int(user) if user.isdecimal() else pwd.getpwnam(user).pw_uid
        gid = -1 if not group else int(group) if group.isdecimal() else grp.getgrnam(group).gr_gid
    except KeyError as error:
        raise InvalidRequest(f"STREAMER_SOCKET_OWNER={text!r}: {error.args[0]}", parameter="socket_owner") from None
    return uid, gid
