"""The composition root: the only module that names concrete classes and owns the task groups everything runs in.

`service()` opens the stores, the mount table and the exporter for one process (a server, or one command of the command
line); `serve()` adds the HTTP server, signals and the drain. The order of opening is the order of dependency, the order
of closing its reverse.
"""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from streamer import log as logs
from streamer.context import addresses
from streamer.context.addresses import Policy
from streamer.errors import Draining, NotFound, StreamerError
from streamer.export.background import Background, background
from streamer.export.exporter import Exporter, exporter
from streamer.export.tasks import task_group
from streamer.opening import opened_stores
from streamer.settings import Settings, environment
from streamer.sinks.delivery import Manner
from streamer.sinks.storages import Access
from streamer.stores.catalog import Catalog
from streamer.stores.local.store import LocalStore

if TYPE_CHECKING:
    from streamer.jobs.queue import Queue
    from streamer.web.server import Server

log = logs.logger("streamer.service")

_ENDPOINTS = ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT", "GOOGLE_BASE_URL")
"""What obstore reads."""


@dataclass(frozen=True, slots=True)
class Service:
    """Everything one process works with. `embedded` is the only store that can be written to; None if there is none."""

    settings: Settings
    catalog: Catalog
    embedded: LocalStore | None
    exporter: Exporter
    background: Background

    @property
    def local(self) -> LocalStore:
        """The embedded store; NotFound if there is none."""
        if self.embedded is None:
            raise NotFound(_no_store(self.settings))
        return self.embedded


@asynccontextmanager
async def service(settings: Settings, *, create: bool = True) -> AsyncIterator[Service]:
    """Stores, mounts and exports for one process; leaving the block ends every export and closes every store.

    With `create=False` an embedded store is not made: a mistyped directory must not become a store. NotFound if there
    is no store at all, or one that was named is not there.
    """
    async with opened_stores(settings, create=create) as stores:
        if not stores:
            raise NotFound(_no_store(settings))
        embedded = next((each for each in stores.values() if isinstance(each, LocalStore)), None)
        async with (
            exporter(
                limit=settings.max_exports,
                release_limit=settings.release_timeout,
                pause_limit=settings.pause_limit,
            ) as exports,
            background() as work,
        ):
            yield Service(settings, Catalog(stores), embedded, exports, work)


@asynccontextmanager
async def storeless(settings: Settings) -> AsyncIterator[Service]:
    """As `service`, for exports whose source is in no store (build contexts): none is opened, none need be there."""
    async with (
        exporter(limit=settings.max_exports, release_limit=settings.release_timeout) as exports,
        background() as work,
    ):
        yield Service(settings, Catalog({}), None, exports, work)


def access(settings: Settings, *, directories: Sequence[Path] | None) -> Access:
    """How storages are reached. `directories`: below which files may be written, None for everywhere."""
    variables = environment()
    if settings.s3_addressing == "auto":
        path_style = any(variables.get(name) for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"))
    else:
        path_style = settings.s3_addressing == "path"
    plain = any(variables.get(name, "").startswith("http://") for name in _ENDPOINTS)
    return Access(path_style=path_style, directories=directories, plain=plain)


def policy(settings: Settings) -> Policy:
    """Which addresses may be fetched from. InvalidRequest for a network that is none."""
    return addresses.parsed(settings.fetch_allow)


def manner(settings: Settings) -> Manner:
    """How exports are sent."""
    return Manner(settings.part_size << 20, settings.upload_concurrency)


def _no_store(settings: Settings) -> str:
    if settings.stores:
        return "there is no embedded store among those that --store names; --store NAME=local:DIR adds one"
    here = f"there is no store at {settings.state}; `streamer import` makes one"
    if not settings.discover:
        return here
    return f"{here}; and no engine's store was found on this node that this user may read (see `streamer doctor`)"


async def serve(settings: Settings, *, ready: Callable[[list[str]], None] | None = None) -> int:
    """Serve until a signal; the exit status: 0 if everything that was open ended by itself, 1 if any had to be broken.

    SIGTERM or SIGINT: readiness fails, nothing new is accepted, open exports, imports and jobs may go on for
    `drain_timeout`; then, or at a second signal, they are broken off (clients see an incomplete body, jobs wait for the
    next start) and everything is released. A third signal ends the process where it stands: mounts are gone with it, an
    import is swept at the next start.
    SIGHUP: tokens and certificates are read again, as they are by themselves once their files change.
    `ready` is called with the addresses once they answer.
    """
    # Half of what a command of the command line would otherwise wait for.
    from streamer import systemd, tracing
    from streamer.entrance import entrance
    from streamer.lag import sample
    from streamer.web.app import application
    from streamer.web.operations import watched
    from streamer.web.server import listening
    from streamer.web.site import Health, Site

    logs.configure(settings.log_level, settings.log_format)
    _raise_file_limit()
    if settings.otlp_endpoint:
        tracing.configure(settings.otlp_endpoint)
    asked = _Asked()
    health = Health()
    door = entrance(settings)
    manager = systemd.Notifier(environment())
    inherited = systemd.inherited(environment())
    # Whoever bound sockets for this process has said where it listens, unless somebody said more.
    addresses = settings.listen if not inherited or "listen" in settings.model_fields_set else ()
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async with task_group() as watching, service(settings) as opened, AsyncExitStack() as stack:
            watching.start_soon(asked.listen, signals)
            jobs, no_jobs = await _jobs(opened, stack)
            site = Site(
                catalog=opened.catalog,
                local=opened.embedded,
                exporter=opened.exporter,
                background=opened.background,
                health=health,
                jobs=jobs,
                no_jobs=no_jobs,
                stall_timeout=settings.stall_timeout,
                upload_timeout=settings.upload_timeout,
                max_import_bytes=settings.max_import_bytes,
                builds=anyio.CapacityLimiter(settings.max_builds),
                fetch=policy(settings) if settings.fetch else None,
                hosts=settings.hosts,
                keys=door.keys,
                connections=door.connections,
                shares=door.shares,
                access_log=settings.access_log,
            )
            watched(site)
            watching.start_soon(sample, site.metrics.lag.observe)
            async with listening(
                application(site),
                addresses,
                inherited=inherited,
                protection=door.protection,
                patience=door.patience,
                connections=door.connections,
            ) as server:
                door.follow(watching, server.renew)
                watching.start_soon(manager.watchdog)
                log.info(
                    "serving", addresses=server.addresses, stores=[each.location for each in opened.catalog.stores()]
                )
                serving = f"serving at {', '.join(server.addresses)}"
                manager.ready(serving)
                if ready is not None:
                    ready(server.addresses)

                async def reload() -> None:
                    manager.reloading()
                    await door.reload(server.renew)
                    manager.ready(serving)

                # Not in the task that hears signals: a file on a dead disk must not keep it from the next one.
                asked.on_reload = lambda: watching.start_soon(reload)
                await asked.to_drain.wait()
                health.drain()
                manager.stopping("waiting for open exports and jobs")
                status = await _drain(opened, jobs, server, asked, settings)
    await anyio.to_thread.run_sync(tracing.close)
    log.info("stopped", status=status)
    return status


async def _jobs(opened: Service, stack: AsyncExitStack) -> tuple[Queue | None, str]:
    """The export jobs of the state directory; none, and why, where this process cannot have them."""
    from streamer.jobs.opening import jobs

    settings = opened.settings
    running = jobs(
        settings.state,
        opened.catalog,
        opened.exporter,
        access=access(settings, directories=settings.export_directories),
        manner=manner(settings),
        limit=settings.max_jobs,
        retention=settings.job_retention,
        release_limit=settings.release_timeout,
    )
    try:
        return await stack.enter_async_context(running), ""
    except StreamerError as error:
        # A disk that is full, a database that is damaged: downloads need no jobs.
        log.error("no export jobs", code=error.code, error=str(error))
        return None, str(error)


class _Asked:
    """What the signals so far ask for."""

    def __init__(self) -> None:
        self.to_drain = anyio.Event()
        self.to_hurry = anyio.Event()
        self.on_reload: Callable[[], object] | None = None

    async def listen(self, signals: AsyncIterator[int]) -> None:
        async for number in signals:
            log.info("signal", signal=signal.Signals(number).name)
            if number == signal.SIGHUP:
                if self.on_reload is not None and not self.to_drain.is_set():
                    self.on_reload()
            elif not self.to_drain.is_set():
                self.to_drain.set()
            elif not self.to_hurry.is_set():
                self.to_hurry.set()
            else:
                os._exit(1)


async def _drain(opened: Service, jobs: Queue | None, server: Server, asked: _Asked, settings: Settings) -> int:
    """The graceful part of a shutdown; what is left afterwards, the enclosing blocks break off and release.

    The exit code: 1 if anything had to be broken. A job that was suspended is not: the next process goes on with it.
    """
    refusal = Draining("the service is shutting down")
    if jobs is not None:
        jobs.refuse(refusal)
    opened.exporter.refuse(refusal)
    opened.background.refuse(refusal)
    log.info(
        "draining",
        exports=opened.exporter.statistics().open,
        imports=opened.background.running,
        jobs=jobs.running if jobs else 0,
    )
    await server.close_listeners()
    with anyio.move_on_after(settings.drain_timeout):
        async with task_group() as waiting:
            waiting.start_soon(_cancel_when, asked.to_hurry, waiting.cancel_scope)
            if jobs is not None:
                await jobs.idle()  # first: a job opens further exports
            await opened.exporter.idle()
            await opened.background.idle()
    if jobs is not None:
        jobs.suspend()  # nothing is lost: the next process goes on with them
        with anyio.move_on_after(settings.release_timeout):
            await jobs.idle()
    left = opened.exporter.read + opened.background.running
    opened.exporter.abort(refusal)
    with anyio.move_on_after(settings.release_timeout):
        await opened.exporter.idle()
    return 1 if left else 0


async def _cancel_when(event: anyio.Event, scope: anyio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


def _raise_file_limit() -> None:
    """As many open files as this process may have: mounting a stack takes a descriptor for each layer."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (ValueError, OSError):
        pass  # the limit that is there then has to do; `streamer doctor` says when it is low
