"""What an open store keeps between questions: a connection, leases, documents that never change."""

from __future__ import annotations

from dataclasses import replace

from streamer.stores.containerd import listing
from streamer.stores.containerd.client import Client
from streamer.stores.containerd.content import Content
from streamer.stores.containerd.engine import Engine
from streamer.stores.containerd.index import ContainerdIndex
from streamer.stores.containerd.leases import Leases


class Reading:
    """Reads one namespace anew for every question. Owns the client."""

    def __init__(self, store: str, socket: str, namespace: str, client: Client) -> None:
        self._client = client
        self._engine = Engine(store, socket, namespace, client, Content(client), Leases(client))

    def index(self) -> ContainerdIndex:
        """From any thread. EngineUnreachable, NotPermitted, SourceFailed."""
        plugins = listing.plugins(self._client)
        engine = replace(self._engine, root=plugins.content_root)
        return ContainerdIndex(engine, listing.listing(self._client, plugins.snapshotters))

    def close(self) -> None:
        self._client.close()
        self._engine.leases.close()
