"""What every record of one store needs of its containerd."""

from __future__ import annotations

from dataclasses import dataclass

from streamer.stores.containerd.client import Client
from streamer.stores.containerd.content import Content
from streamer.stores.containerd.leases import Leases


@dataclass(frozen=True, slots=True)
class Engine:
    """`root` is the content store's directory, None where containerd does not tell."""

    store: str
    socket: str
    namespace: str
    client: Client
    content: Content
    leases: Leases
    root: str | None = None
