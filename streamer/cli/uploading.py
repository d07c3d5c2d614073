"""The work of `streamer export -o s3://…`: an archive into object storage."""

from __future__ import annotations

import secrets
from dataclasses import replace as replaced
from typing import TYPE_CHECKING

from streamer.cli.progress import watching
from streamer.jobs.planning import engine
from streamer.service import access, manner
from streamer.sinks.address import parse
from streamer.sinks.base import Target
from streamer.sinks.delivery import Watch, deliver
from streamer.sinks.metadata import target
from streamer.sinks.storages import storages

if TYPE_CHECKING:
    from streamer.client.watch import Watch as Bar
    from streamer.export.plan import ExportPlan, Report
    from streamer.service import Service


async def uploaded(service: Service, plan: ExportPlan, name: str, *, replace: bool, digest_first: bool) -> Report:
    """The export as the object that `name` is the URI of."""
    how = replaced(manner(service.settings), digest_first=digest_first)
    address, token = parse(name), secrets.token_hex(16)

    def made(size: int | None, digest: str | None) -> Target:
        return target(
            address, plan, token=token, engine=engine(service.catalog, plan), size=size, digest=digest, replace=replace
        )

    async with storages(access(service.settings, directories=None)) as places:
        storage = await places.of(address)
        with watching(plan.filename) as bar:
            done = await deliver(service.exporter, plan, storage, made, manner=how, watch=_Watch(bar))
    return done.report


class _Watch(Watch):
    def __init__(self, bar: Bar) -> None:
        self._bar = bar

    def progress(self, done: int, size: int | None) -> None:
        self._bar.progress(done, size)
