"""The real application on a real socket of this process, with one store of one container over a real overlay."""

from __future__ import annotations

import ssl
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from support import certificates
from support.certificates import SecurePort

from streamer.access.watch import Watched
from streamer.export.background import Background, background
from streamer.export.exporter import Exporter, exporter
from streamer.jobs.opening import jobs as opened_jobs
from streamer.sinks.delivery import Manner
from streamer.sinks.storages import Access
from streamer.stores.base import Store, WritableStore
from streamer.stores.catalog import Catalog
from streamer.web.addresses import Protection
from streamer.web.app import application
from streamer.web.limits import Connections, Patience
from streamer.web.operations import watched
from streamer.web.server import Server, listening
from streamer.web.site import Health, Site
from streamer.web.tls import certificates as tls_of


def secured() -> Watched[ssl.SSLContext]:
    """The context of a server that `certificates.client()` trusts."""
    with tempfile.TemporaryDirectory() as directory:
        return tls_of(*certificates.write(Path(directory), certificates.leaf("localhost", "127.0.0.1")))


@dataclass
class Served:
    port: int
    exporter: Exporter
    background: Background
    health: Health
    server: Server
    connections: Connections


@asynccontextmanager
async def served(
    store: Store,
    *,
    cancellation: bool = True,
    stall_timeout: float = 60,
    upload_timeout: float = 60,
    limit: int = 64,
    max_import_bytes: int = 1 << 30,
    tls: bool = False,
    patience: Patience | None = None,
    jobs: Path | None = None,
    directories: Sequence[Path] = (),
    **more: Any,
) -> AsyncIterator[Served]:
    """Everything as `service.serve` puts it together, on a free port of loopback; with `jobs` in that directory, which
    may write files below `directories`. `more` is what else the site has."""
    catalog = Catalog({store.name: store})
    async with exporter(limit=limit, release_limit=60) as exports, background() as work, AsyncExitStack() as stack:
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
            **more,
        )
        watched(site)
        async with listening(
            application(site),
            ["127.0.0.1:0"],
            cancellation=cancellation,
            protection=Protection(tls=secured() if tls else None),
            patience=patience,
            connections=site.connections,
        ) as server:
            port = int(server.addresses[0].rpartition(":")[2])
            if tls:
                port = SecurePort(port)
                port.tls = certificates.client()
            yield Served(port, exports, work, site.health, server, site.connections)
