"""A running containerd as a store: its images, its layers as they were pulled, its containers.

Metadata, leases and views come over its socket; file systems and, where this process sees them, blobs straight from its
files. What is read is leased meanwhile, so that neither `ctr images rm` nor garbage collection takes it away.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from anyio import CapacityLimiter, to_thread

from streamer.errors import Unsupported
from streamer.stores.base import Store
from streamer.stores.index import LOOKUPS, Index, IndexedStore

if TYPE_CHECKING:
    from streamer.stores.containerd.client import Client

DEADLINE = 10.0
"""Seconds for an answer of containerd."""


class ContainerdStore(IndexedStore):
    """Made by `open`; everything it answers may be used while it is open."""

    @classmethod
    @asynccontextmanager
    async def open(cls, name: str, socket: str, namespace: str, *, deadline: float = DEADLINE) -> AsyncIterator[Store]:
        """The store of one namespace. Nothing is asked before the first question, so a containerd that is not running
        is EngineUnreachable then, and found once it runs; Unsupported without the libraries that this needs.

        Exports should have ended when the block is left: a lease that is still held then is left to expire.
        """
        client = _client(socket, namespace, f"the containerd of store {name}", deadline)
        # Only now: who has no containerd needs no gRPC.
        from streamer.stores.containerd.reading import Reading

        reading = Reading(name, socket, namespace, client)
        limiter = CapacityLimiter(LOOKUPS)

        async def read() -> Index:
            # Left alone when cancelled: it holds nothing, and every call has its deadline.
            return await to_thread.run_sync(reading.index, limiter=limiter, abandon_on_cancel=True)

        try:
            yield cls(name, f"containerd:{socket}#{namespace}", read)
        finally:
            reading.close()


async def namespaces(socket: str, *, deadline: float = DEADLINE) -> list[str]:
    """Every namespace of the containerd at `socket`, sorted. EngineUnreachable, NotPermitted, Unsupported."""
    client = _client(socket, "", f"the containerd at {socket}", deadline)
    from streamer.stores.containerd import listing

    try:
        return await to_thread.run_sync(partial(listing.namespaces, client), abandon_on_cancel=True)
    finally:
        client.close()


def _client(socket: str, namespace: str, who: str, deadline: float) -> Client:
    try:
        from streamer.stores.containerd.client import Client
    except ImportError as error:
        raise Unsupported(
            "stores of containerd need gRPC, which is not installed: pip install 'streamer[containerd]'"
        ) from error
    return Client(socket, namespace, who, deadline)
