"""What an open store keeps between questions: a connection, leases, documents that never change."""

from __future__ import annotations

from dataclasses import replace

from streamer.stores.containerd import listing
from streamer.stores.containerd.client import Client
from streamer.stores.containerd.content import Content
from streamer.stores.containerd.engine import Engine
from streamer.stores.containerd.index import ContainerdIndex
from streamer.stores.containerd.leases import Leases

_TRIES = 10
"""Readings of a namespace whose images change all the time; then what seems damaged is called so."""


class Reading:
    """Reads one namespace anew for every question. Owns the client."""

    def __init__(self, store: str, socket: str, namespace: str, client: Client) -> None:
        self._client = client
        self._engine = Engine(store, socket, namespace, client, Content(client), Leases(client))

    def index(self) -> ContainerdIndex:
        """From any thread. EngineUnreachable, NotPermitted, SourceFailed."""
        plugins = listing.plugins(self._client)
        engine = replace(self._engine, root=plugins.content_root)
        for _ in range(_TRIES):
            found = listing.listing(self._client, plugins.snapshotters)
            index = ContainerdIndex(engine, found)
            # An image whose content is not there may have been removed after the images were listed, and even be back.
            if not index.broken or listing.images(self._client) == found.images:
                break
        return index

    def close(self) -> None:
        self._client.close()
        self._engine.leases.close()
