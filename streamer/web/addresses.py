"""Addresses to listen on, and which of them are refused: what other machines can reach needs to know who asks."""

from __future__ import annotations

import ipaddress
import ssl
from dataclasses import dataclass

from streamer.access.watch import Watched
from streamer.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class Protection:
    """What stands between a listener and whoever connects."""

    tls: Watched[ssl.SSLContext] | None = None
    """For every TCP address; unix sockets stay as they are."""
    authenticated: bool = False
    """Whether every caller is known: by a token, or by the certificate of a client."""
    plain: bool = False
    """Whether tokens may cross a network without TLS."""
    socket_mode: int = 0o600
    socket_owner: tuple[int, int] | None = None
    """User and group of unix sockets, -1 for one that stays as it is."""


OWNER_ONLY = Protection()


@dataclass(frozen=True, slots=True)
class Address:
    """`path` of a unix socket, or else host and port."""

    host: str
    port: int
    path: str | None = None

    def __str__(self) -> str:
        if self.path is not None:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parsed(text: str, protection: Protection = OWNER_ONLY) -> Address:
    """The address that HOST:PORT or unix:PATH names. InvalidRequest if it is none, or must not be listened on."""
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not path:
            raise InvalidRequest("cannot listen on unix: without a path", parameter="listen")
        return Address("", 0, path)
    host, colon, number = text.rpartition(":")
    host = host.strip("[]") or "127.0.0.1"
    if not colon or not number.isdecimal() or int(number) > 65535:
        raise InvalidRequest(f"cannot listen on {text!r}: it is neither HOST:PORT nor unix:PATH", parameter="listen")
    try:
        loopback = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host).is_loopback
    except ValueError:
        raise InvalidRequest(
            f"cannot listen on {text!r}: give an IP address or localhost", parameter="listen"
        ) from None
    if not loopback:
        require_protection(text, protection)
    return Address(host, int(number))


def require_protection(address: str, protection: Protection) -> None:
    """InvalidRequest unless an address that other machines can reach is protected enough to be listened on."""
    if not protection.authenticated:
        raise InvalidRequest(
            f"refusing to listen on {address}: other machines could read every file, for nobody has to say who asks; "
            "set STREAMER_TOKENS or STREAMER_TLS_CLIENT_CA, or listen on 127.0.0.1 or unix:PATH",
            parameter="listen",
        )
    if protection.tls is None and not protection.plain:
        raise InvalidRequest(
            f"refusing to listen on {address}: without TLS everybody between here and other machines could read tokens "
            "and files; set STREAMER_TLS_CERTIFICATE, or STREAMER_INSECURE_HTTP=yes where the network itself encrypts",
            parameter="listen",
        )
