"""SHA-256 of an archive: what came, and what the service says it is."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass

import anyio
import anyio.to_thread

from streamer.client.answer import Offer
from streamer.client.failure import Changed, Transient, Unreachable
from streamer.client.node import Node
from streamer.client.patience import Patience
from streamer.client.request import Request
from streamer.errors import DigestMismatch, SourceChanged, SourceFailed, StoreDamaged, StreamerError

_BLOCK = 1 << 20
_STEP = 16 << 20
"""Bytes that are hashed at a time, before it is asked whether anybody still wants to know."""


class Following:
    """The digest of a file of `size` bytes that is being written, hashed in order as far as it has come."""

    def __init__(self, fd: int, size: int) -> None:
        self._fd = fd
        self._size = size
        self._hash = hashlib.sha256()
        self._position = 0
        self._there = 0
        self._more = anyio.Event()

    def reached(self, there: int) -> None:
        """So many bytes are there from the first on, without a gap."""
        self._there = there
        if self._worthwhile:
            self._more.set()

    @property
    def _worthwhile(self) -> bool:
        return self._there - self._position >= _STEP or self._there == self._size

    async def digest(self) -> bytes:
        """The digest, once all bytes were there."""
        while self._position < self._size:
            if not self._worthwhile:
                self._more = anyio.Event()
                await self._more.wait()
            await anyio.to_thread.run_sync(self._advance, min(self._there, self._position + _STEP))
        return self._hash.digest()

    def _advance(self, stop: int) -> None:
        while self._position < stop:
            block = os.pread(self._fd, min(_BLOCK, stop - self._position), self._position)
            if not block:
                raise OSError(0, "the file became shorter")
            self._hash.update(block)
            self._position += len(block)


@dataclass(frozen=True, slots=True)
class Told:
    """What the service said in the end: the digest, or in a sentence why there is none."""

    digest: bytes | None
    why: str = ""


async def asked(node: Node, request: Request, offer: Offer, note: Callable[[str], None]) -> Told:
    """The digest of the version that was offered, as the service has it. Unreachable if it does not answer any more."""
    if offer.digest is not None:
        return Told(offer.digest)
    assert offer.etag is not None
    assert offer.size is not None
    patience = Patience(node.limits, note)
    while True:
        try:
            found = await node.look(request, offer.etag, offer.size, digest=True)
        except Transient as failure:
            try:
                await patience.bear(failure, 0)
            except StreamerError as error:
                raise Unreachable(f"all bytes are there, but not the digest to check them by: {error}") from None
        except Changed:
            return Told(None, "the source has changed since")
        except (SourceChanged, SourceFailed, StoreDamaged) as error:
            raise type(error)(
                f"all bytes are there, but {node} could not read them again for their digest: {error}"
            ) from None
        except StreamerError as error:
            if type(error) is StreamerError:  # an error inside the service
                raise
            return Told(None, str(error))
        else:
            return Told(found.digest, "" if found.digest else f"{node} tells no digest")


def compare(node: Node, request: Request, told: bytes, came: bytes) -> None:
    """DigestMismatch unless both are the same."""
    if told != came:
        raise DigestMismatch(
            f"{request.title} from {node} has digest sha256:{came.hex()}, where sha256:{told.hex()} was promised"
        )
