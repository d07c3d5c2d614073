"""Which addresses may be fetched from: a URL in a Dockerfile must not reach what only this machine reaches.

What counts is the address that is really connected to, after every look-up of a name: names are somebody else's, and
answer differently the second time.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from streamer.errors import InvalidRequest

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

_NAT64 = (ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("64:ff9b:1::/48"))
_COMPATIBLE = ipaddress.IPv6Network("::/96")
_NEVER = tuple(
    ipaddress.ip_network(text)
    for text in (
        "192.0.0.0/24",
        "192.88.99.0/24",
        "100.64.0.0/10",
        "100::/64",
        "2001:db8::/32",
        "3fff::/20",
        "fec0::/10",
        "64:ff9b:1::/48",
        "fe80::/10",
        "fc00::/7",
    )
)
"""Of the registries of special purposes (RFC 6890), what not every version of Python knows."""
_ISATAP = (0x00005EFE, 0x02005EFE)


@dataclass(frozen=True, slots=True)
class Policy:
    """Public addresses, and those of `allowed` networks."""

    allowed: tuple[Network, ...] = ()

    def permits(self, host: str) -> bool:
        """Whether an address in its usual spelling may be connected to."""
        try:
            address = ipaddress.ip_address(host.partition("%")[0])
        except ValueError:
            return False
        # An address that another one is inside of leads to that.
        return all(self._permits(each) for each in (address, *_inside(address)))

    def _permits(self, address: Address) -> bool:
        if any(address.version == network.version and address in network for network in self.allowed):
            return True
        if isinstance(address, ipaddress.IPv6Address) and _is_a_spelling(address):
            return True  # of an IPv4 address, which is asked by itself
        if any(address.version == network.version and address in network for network in _NEVER):
            return False
        return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)


def parsed(texts: Sequence[str]) -> Policy:
    """The policy that allows these networks or single addresses besides. InvalidRequest names one that is none."""
    networks = []
    for text in texts:
        try:
            networks.append(ipaddress.ip_network(text, strict=False))
        except ValueError as error:
            raise InvalidRequest(f"{text[:100]!r} is no network: {error}", parameter="fetch_allow") from None
    return Policy(tuple(networks))


def _inside(address: Address) -> Iterator[ipaddress.IPv4Address]:
    """The IPv4 addresses that an IPv6 one carries, and that routers or the kernel may make of it."""
    if not isinstance(address, ipaddress.IPv6Address):
        return
    low = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    if address.ipv4_mapped is not None:
        yield address.ipv4_mapped
    elif any(address in network for network in (_COMPATIBLE, *_NAT64)) or _middle(address) in _ISATAP:
        if int(address) > 1:
            yield low
    elif address.sixtofour is not None:
        yield address.sixtofour
    elif address.teredo is not None:
        yield from address.teredo


def _is_a_spelling(address: ipaddress.IPv6Address) -> bool:
    """Whether whoever connects to it reaches the IPv4 address inside, and nothing else."""
    return address.ipv4_mapped is not None or address in _NAT64[0] or address.sixtofour is not None


def _middle(address: ipaddress.IPv6Address) -> int:
    return (int(address) >> 32) & 0xFFFFFFFF


@dataclass(slots=True)
class Gate:
    """Opens sockets, but only for addresses that the policy permits; remembers the others."""

    policy: Policy
    refused: list[str] = field(default_factory=list)

    def opened(self, family: int, kind: int, protocol: int, host: str) -> socket.socket:
        """A socket for a connection to that address. PermissionError, before anything is opened, if it is refused."""
        if family not in (socket.AF_INET, socket.AF_INET6) or not self.policy.permits(host):
            self.refused.append(host)
            raise PermissionError(f"{host} is not a public address")
        return socket.socket(family, kind, protocol)
