"""What handlers work with: collaborators by constructor, one typed key, no globals."""

from __future__ import annotations

from dataclasses import dataclass, field

from aiohttp import web
from anyio import CapacityLimiter

from streamer.access.token import Token
from streamer.access.watch import Watched
from streamer.context.addresses import Policy
from streamer.export.background import Background
from streamer.export.exporter import Exporter
from streamer.jobs.queue import Queue
from streamer.metrics import Metrics
from streamer.stores.base import WritableStore
from streamer.stores.catalog import Catalog
from streamer.web.limits import Connections, Shares


class Health:
    """Whether the service should be sent requests."""

    def __init__(self) -> None:
        self.draining = False

    def drain(self) -> None:
        self.draining = True


@dataclass(frozen=True, slots=True)
class Site:
    catalog: Catalog
    local: WritableStore | None
    """The embedded store, where imports go; None if none is served."""
    exporter: Exporter
    background: Background
    health: Health = field(default_factory=Health)
    metrics: Metrics = field(default_factory=Metrics)
    stall_timeout: float = 60
    upload_timeout: float = 60
    max_import_bytes: int = 256 << 30
    builds: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(4))
    """Builds that may be under way at a time."""
    fetch: Policy | None = None
    """From which addresses may be fetched for a client; None if from none."""
    jobs: Queue | None = None
    no_jobs: str = "no export jobs are run here"
    """Why there are none."""
    hosts: tuple[str, ...] = ()
    """Names besides loopback that requests may be addressed to."""
    keys: Watched[tuple[Token, ...]] | None = None
    """Tokens that let callers in; None lets everyone in who can connect."""
    access_log: bool = True
    connections: Connections = field(default_factory=Connections)
    shares: Shares = field(default_factory=Shares)


SITE = web.AppKey("site", Site)
