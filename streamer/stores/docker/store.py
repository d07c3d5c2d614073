"""Docker's store as `base.Store`, and whether an engine keeps its images here at all."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from anyio import CapacityLimiter, to_thread

from streamer.stores.base import Freezer, Store
from streamer.stores.docker.freezer import DockerFreezer
from streamer.stores.docker.index import DockerIndex
from streamer.stores.docker.layers import measure
from streamer.stores.docker.root import locate, uses_containerd
from streamer.stores.index import LOOKUPS, IndexedStore

__all__ = ["docker_store", "uses_containerd"]


def docker_store(name: str, root: Path, sockets: Sequence[str] = (), *, named: bool = False) -> Store:
    """The store at the data-root `root`, read anew for every question; nothing is opened before the first.

    `sockets` are unix sockets at which the engine may answer that works there; only pausing asks it. `named`: somebody
    said that it does, and it may know the data-root by another path (in another mount namespace). Every question
    raises Unsupported where containerd or another graph driver keeps the images, NotPermitted where this user may not
    read them, StoreDamaged where there is no data-root.
    """
    root = Path(os.path.abspath(root))
    measured = measure()
    limiter = CapacityLimiter(LOOKUPS)

    def read() -> DockerIndex:
        found = locate(name, root)
        data_root = Path(os.fsdecode(found.files.path))

        def freezer(identity: str) -> Freezer | None:
            return DockerFreezer(sockets, data_root, identity, named) if sockets else None

        return DockerIndex(name, found, measured, freezer)

    async def index() -> DockerIndex:
        return await to_thread.run_sync(read, limiter=limiter)

    location = f"docker:{root}" + (f"+{sockets[0]}" if len(sockets) == 1 else "")
    return IndexedStore(name, location, index)
