"""Ports as EXPOSE takes them: `PORT`, `PORT/PROTOCOL`, a range, or `[ADDRESS:][PORT:]PORT`, whose last one counts."""

from __future__ import annotations

import ipaddress

from streamer.errors import InvalidRequest

_PROTOCOLS = frozenset(("tcp", "udp", "sctp"))
_HIGHEST = 65_535


def parse(text: str) -> tuple[str, ...]:
    """`PORT/PROTOCOL` for every port that the text stands for, in rising order. InvalidRequest if it is not one."""
    rest, _, protocol = text.partition("/")
    protocol = protocol.lower() or "tcp"
    outer, _, inner = rest.rpartition(":")
    host, _, published = outer.rpartition(":")
    try:
        if protocol not in _PROTOCOLS:
            raise ValueError
        first, last = _range(inner)
        if published:
            begin, end = _range(published)
            if end - begin != last - first and last != first:
                raise ValueError
        if host:
            ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        raise InvalidRequest(
            f"EXPOSE cannot take {text[:100]!r}: a port (80), with a protocol (80/udp), or a range"
        ) from None
    return tuple(f"{port}/{protocol}" for port in range(first, last + 1))


def _range(text: str) -> tuple[int, int]:
    begin, given, end = text.partition("-")
    first = _port(begin)
    last = _port(end) if given else first
    if last < first:
        raise ValueError
    return first, last


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5) or int(text) > _HIGHEST:
        raise ValueError
    return int(text)
