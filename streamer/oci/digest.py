"""Content digests and chain IDs (OCI image-spec, descriptor.md "Digests" and config.md "Layer ChainID")."""

from __future__ import annotations

import hashlib
import re

from streamer.errors import InvalidReference

_BEGINNING = re.compile(r"[0-9a-f]{1,64}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")


def digest(data: bytes) -> str:
    """`sha256:<hex>` of the bytes."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def is_digest(text: object) -> bool:
    return isinstance(text, str) and _DIGEST.fullmatch(text) is not None


def parse(text: object) -> str:
    """The digest itself; InvalidReference unless it is `sha256:` + 64 or `sha512:` + 128 lower-case hex digits.

    Everything that becomes part of a path or a URL passes here first: an unchecked digest is a path traversal.
    """
    if not isinstance(text, str) or _DIGEST.fullmatch(text) is None:
        raise InvalidReference(f"{str(text)[:80]!r} is not a digest (sha256: and 64 hex digits, or sha512: and 128)")
    return text


def prefix(text: str) -> str | None:
    """`sha256:` and hex digits, where `text` (with or without the algorithm) could be the beginning of a digest."""
    encoded = text.removeprefix("sha256:")
    return f"sha256:{encoded}" if _BEGINNING.fullmatch(encoded) else None


def algorithm(digest: str) -> str:
    return digest.partition(":")[0]


def encoded(digest: str) -> str:
    """The hex digits after the colon."""
    return digest.partition(":")[2]


def short(digest: str) -> str:
    """The first twelve hex digits, as every engine prints an ID."""
    return encoded(digest)[:12]


def chain_ids(diff_ids: list[str] | tuple[str, ...]) -> tuple[str, ...]:
    """The chain ID of every prefix of the layers, base first."""
    chain: list[str] = []
    for diff_id in diff_ids:
        chain.append(digest(f"{chain[-1]} {diff_id}".encode()) if chain else diff_id)
    return tuple(chain)
