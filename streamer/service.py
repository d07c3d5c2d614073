"""The composition root: the only module that names concrete classes and owns the task groups everything runs in.

`service()` opens the stores, the mount table and the exporter for one process (a server, or one command of the command
line); `serve()` adds the HTTP server, signals and the drain. The order of opening is the order of dependency, the order
of closing its reverse.
"""

from __future__ import annotations

import resource
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio
import structlog

from streamer import log as logs
from streamer.errors import Draining, InvalidRequest
from streamer.export.background import Background
from streamer.export.exporter import Exporter, exporter
from streamer.settings import Settings
from streamer.stores.base import Store
from streamer.stores.catalog import Catalog
from streamer.stores.local.store import LocalStore
from streamer.web.app import application
from streamer.web.server import Server, listening
from streamer.web.site import Health, Site

log = structlog.get_logger("streamer.service")

LOCAL = "local"


@dataclass(frozen=True, slots=True)
class Service:
    """Everything one process works with. `local` is the embedded store, the only one that can be written to."""

    settings: Settings
    catalog: Catalog
    local: LocalStore
    exporter: Exporter
    background: Background


@asynccontextmanager
async def service(settings: Settings) -> AsyncIterator[Service]:
    """Stores, mounts and exports for one process; leaving the block ends every export and closes every store."""
    name, state = _local(settings)
    async with LocalStore.open(state, name=name) as local:
        stores: dict[str, Store] = {name: local}
        async with (
            exporter(limit=settings.max_exports, release_limit=settings.release_timeout) as exports,
            anyio.create_task_group() as tasks,
        ):
            yield Service(settings, Catalog(stores), local, exports, Background(tasks))


def _local(settings: Settings) -> tuple[str, Path]:
    """Name and directory of the embedded store. Other kinds of store are named in the error until they are built."""
    found = (LOCAL, settings.state)
    for item in settings.stores:
        name, equals, uri = item.partition("=")
        kind, colon, location = uri.partition(":")
        if not equals or not colon or not name or not location:
            raise InvalidRequest(f"--store {item!r} is not NAME=KIND:LOCATION", parameter="store")
        if kind != "local":
            raise InvalidRequest(f"--store {item!r}: only stores of kind local are supported so far", parameter="store")
        if len(settings.stores) > 1:
            raise InvalidRequest("only one embedded store can be served at a time", parameter="store")
        found = (name, Path(location))
    return found


async def serve(settings: Settings, *, ready: Callable[[list[str]], None] | None = None) -> int:
    """Serve until a signal; the exit status: 0 if every open export ended by itself, 1 if any had to be broken.

    SIGTERM or SIGINT: readiness fails, nothing new is accepted, open exports may go on for `drain_timeout`; then, or
    at a second signal, their streams are broken (clients see an incomplete body) and everything is released. `ready`
    is called with the addresses once they answer.
    """
    logs.configure(settings.log_level, settings.log_format)
    _raise_file_limit()
    health = Health()
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with service(settings) as opened:
            site = Site(
                catalog=opened.catalog,
                local=opened.local,
                exporter=opened.exporter,
                background=opened.background,
                health=health,
                stall_timeout=settings.stall_timeout,
                upload_timeout=settings.upload_timeout,
                max_import_bytes=settings.max_import_bytes,
                hosts=settings.hosts,
            )
            async with listening(application(site), settings.listen) as server:
                log.info("serving", addresses=server.addresses, state=str(settings.state))
                if ready is not None:
                    ready(server.addresses)
                async for number in signals:
                    log.info("draining", signal=signal.Signals(number).name, open=opened.exporter.statistics().open)
                    break
                status = await _drain(opened, server, health, signals, settings)
    log.info("stopped", status=status)
    return status


async def _drain(
    opened: Service, server: Server, health: Health, signals: AsyncIterator[int], settings: Settings
) -> int:
    """Steps 1 to 5 of a graceful shutdown; what is left afterwards, the enclosing blocks release."""
    refusal = Draining("the service is shutting down")
    health.drain()
    opened.exporter.refuse(refusal)
    await server.close_listeners()
    with anyio.move_on_after(settings.drain_timeout):
        async with anyio.create_task_group() as waiting:
            waiting.start_soon(partial(_second_signal, signals, waiting.cancel_scope))
            await opened.exporter.idle()
            await opened.background.idle()
            waiting.cancel_scope.cancel()
    left = opened.exporter.statistics().open + opened.background.running
    opened.exporter.abort(refusal)
    with anyio.move_on_after(settings.release_timeout):
        await opened.exporter.idle()
    return 1 if left else 0


async def _second_signal(signals: AsyncIterator[int], scope: anyio.CancelScope) -> None:
    async for _ in signals:
        scope.cancel()
        return


def _raise_file_limit() -> None:
    """As many open files as this process may have: mounting a stack takes a descriptor for each layer."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (ValueError, OSError):
        pass  # the limit that is there then has to do; `streamer doctor` says when it is low
