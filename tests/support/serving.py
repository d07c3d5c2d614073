"""The real application on a real socket of this process, with one store of one container over a real overlay."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from streamer.export.background import Background, background
from streamer.export.exporter import Exporter, exporter
from streamer.jobs.opening import jobs as opened_jobs
from streamer.sinks.delivery import Manner
from streamer.sinks.storages import Access
from streamer.stores.base import Store, WritableStore
from streamer.stores.catalog import Catalog
from streamer.web.app import application
from streamer.web.server import Server, listening
from streamer.web.site import Health, Site


@dataclass
class Served:
    port: int
    exporter: Exporter
    background: Background
    health: Health
    server: Server


@asynccontextmanager
async def served(
    store: Store,
    *,
    cancellation: bool = True,
    stall_timeout: float = 60,
    upload_timeout: float = 60,
    limit: int = 64,
    max_import_bytes: int = 1 << 30,
    jobs: Path | None = None,
    directories: Sequence[Path] = (),
) -> AsyncIterator[Served]:
    """Everything as `service.serve` puts it together, on a free port of loopback; with `jobs` in that directory, which
    may write files below `directories`."""
    catalog = Catalog({store.name: store})
    async with exporter(limit=limit, release_limit=5) as exports, background() as work, AsyncExitStack() as stack:
        queue = None
        if jobs is not None:
            running = opened_jobs(
                jobs,
                catalog,
                exports,
                access=Access(directories=directories),
                manner=Manner(1 << 20, 2),
                limit=2,
                retention=3600,
            )
            queue = await stack.enter_async_context(running)
        site = Site(
            catalog=catalog,
            local=cast("WritableStore", store),
            exporter=exports,
            background=work,
            stall_timeout=stall_timeout,
            upload_timeout=upload_timeout,
            max_import_bytes=max_import_bytes,
            jobs=queue,
        )
        async with listening(application(site), ["127.0.0.1:0"], cancellation=cancellation) as server:
            port = int(server.addresses[0].rpartition(":")[2])
            yield Served(port, exports, work, site.health, server)
