"""References as people type them, to rows: names, full IDs, unique prefixes of IDs, digests.

`store` is the store's own name, for the candidates of what is Ambiguous.
"""

from __future__ import annotations

import re

from streamer.database import Transaction
from streamer.errors import Ambiguous, InvalidReference, NotFound
from streamer.oci import digest as digests
from streamer.oci import reference as references
from streamer.oci.reference import Reference
from streamer.stores.local import catalog
from streamer.stores.local.catalog import ContainerRow, ImageRow, LayerRow

_HEX = re.compile(r"[0-9a-f]{1,64}")
_CONTAINER_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}")


def container_name(text: str) -> str:
    """The name itself, if a container may have it (Docker's rule, at most 128 characters); else InvalidReference."""
    if _CONTAINER_NAME.fullmatch(text) is None:
        raise InvalidReference(
            f"{text[:128]!r} is not a container name: letters, digits, '_', '.', '-', beginning with a letter or digit"
        )
    return text


async def image(transaction: Transaction, text: str, store: str) -> ImageRow:
    """The image that `text` means; its row says nothing about which of its names that was (see `image_name`)."""
    identity = await _image_id(transaction, text, store)
    row = await catalog.image(transaction, identity)
    if row is None:
        raise NotFound(f"there is no image {text[:300]!r} in the embedded store")
    return row


async def image_name(transaction: Transaction, text: str) -> Reference | None:
    """The name in the store that `text` is, None where it is an ID or a prefix of one."""
    name = references.attempt(text)
    if name is None or name.tag is None or name.digest is not None:
        return None
    return name if await catalog.image_named(transaction, name.repository, name.tag) else None


async def _image_id(transaction: Transaction, text: str, store: str) -> str:
    if text.startswith("sha512:") or digests.is_digest(text):
        return digests.parse(text)
    name, prefix = references.attempt(text), digests.prefix(text)
    if name is not None and name.tag is not None and (prefix is None or len(text) < 64):
        identity = await catalog.image_named(transaction, name.repository, name.tag)
        if identity is not None and name.digest in (None, identity):
            return identity
    elif name is not None and name.digest is not None:
        found = [identity for _, identity in await catalog.tags(transaction, name.repository)]
        if name.digest in found:
            return name.digest
    if prefix is not None:
        candidates = await catalog.images_like(transaction, prefix)
        if len(candidates) > 1:
            raise _ambiguous(f"several images have an ID that begins with {text!r}", store, candidates)
        if candidates:
            return candidates[0]
    if name is None and prefix is None:
        references.parse(text)  # raises, and says what is wrong
    raise NotFound(f"there is no image {text[:300]!r} in the embedded store")


def _ambiguous(message: str, store: str, identities: list[str]) -> Ambiguous:
    """With candidates as `Catalog` gives them when it asks several stores."""
    return Ambiguous(message, candidates=[{"store": store, "id": identity} for identity in identities])


async def container(transaction: Transaction, text: str, store: str) -> ContainerRow:
    row = await catalog.container(transaction, "name", text) or await catalog.container(transaction, "id", text)
    if row is None and _HEX.fullmatch(text):
        candidates = await catalog.containers_like(transaction, text)
        if len(candidates) > 1:
            raise _ambiguous(f"several containers have an ID that begins with {text!r}", store, candidates)
        if candidates:
            row = await catalog.container(transaction, "id", candidates[0])
    if row is None:
        container_name(text)
        raise NotFound(f"there is no container {text!r} in the embedded store")
    return row


async def layer(transaction: Transaction, text: str, store: str) -> LayerRow:
    """By chain ID, else diff ID, else a unique prefix of either. Equal diff IDs are equal tars: any one will do."""
    prefix = text if digests.is_digest(text) else digests.prefix(text)
    if prefix is None:
        digests.parse(text)
        raise NotFound(f"there is no layer {text[:80]!r} in the embedded store")
    found: dict[str, LayerRow] = {}
    for column in ("chain", "diff"):
        for row in await catalog.layers_like(transaction, column, prefix):
            if prefix in (row.chain, row.diff):
                return row
            found.setdefault(row.diff, row)
    if len(found) > 1:
        raise _ambiguous(f"several layers have a digest that begins with {text!r}", store, sorted(found))
    if not found:
        raise NotFound(f"there is no layer {text!r} in the embedded store")
    return next(iter(found.values()))
