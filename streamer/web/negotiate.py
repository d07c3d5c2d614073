"""Which content coding a client asks for (RFC 9110, 12.5.3; zstd: RFC 8878, with the window limit of RFC 9659)."""

from __future__ import annotations

import re
from collections.abc import Iterable

from streamer.tar.compression import Compression
from streamer.web.problems import NotAcceptable

CODINGS = {"zstd": Compression.ZSTD, "gzip": Compression.GZIP, "x-gzip": Compression.GZIP}
"""What can be asked for; of two that are wanted alike, the first."""

_IDENTITY = "identity"
_ITEM = re.compile(r"\s*([!#$%&'*+.^_`|~0-9A-Za-z-]+)\s*(?:;\s*[qQ]\s*=\s*([01](?:\.[0-9]{0,3})?)\s*)?")


def coding(accept_encoding: Iterable[str]) -> Compression:
    """The coding wanted most, NONE where none is asked for or the body as it is is wanted more.

    `accept_encoding` are the header's lines, in order. One that is not well formed asks for nothing. NotAcceptable if
    everything is refused that could be given.
    """
    wanted = _parsed(accept_encoding)
    if not wanted:
        return Compression.NONE
    others = wanted.get("*")
    best, most = Compression.NONE, 0.0
    for name, compression in CODINGS.items():
        # An alias is nothing that `*` asks for.
        weight = wanted.get(name, others if name in ("zstd", "gzip") else None)
        if weight is not None and weight > most:
            best, most = compression, weight
    plain = wanted.get(_IDENTITY, 0.0 if others == 0 else None)
    if plain is None or (plain and plain < most):
        return best  # acceptable, but not asked for
    if not plain and not most:
        raise NotAcceptable("no acceptable content coding: zstd, gzip and identity can be given")
    return best if most > plain else Compression.NONE


def identity(accept_encoding: Iterable[str]) -> bool:
    """Whether the body may come as it is, wanted or not."""
    wanted = _parsed(accept_encoding)
    return wanted.get(_IDENTITY, wanted.get("*", 1.0)) > 0


def _parsed(lines: Iterable[str]) -> dict[str, float]:
    """Weights by coding, in lower case; empty if anything is malformed."""
    weights: dict[str, float] = {}
    for item in ",".join(lines).split(","):
        if not item.strip():
            continue
        found = _ITEM.fullmatch(item)
        if found is None:
            return {}
        weight = float(found[2] or 1)
        if weight > 1:
            return {}
        weights[found[1].lower()] = weight
    return weights
