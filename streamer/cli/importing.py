"""The work of `streamer import`: a source that signals can interrupt, progress by what was read, a report as data."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import anyio

from streamer.cli.progress import progress
from streamer.cli.source import Input, source
from streamer.errors import InvalidArchive, LimitExceeded, Unsupported
from streamer.stores.base import ArchiveKind
from streamer.stores.values import image_value
from streamer.tar.reader import Limits

if TYPE_CHECKING:
    from streamer.service import Service


async def imported(service: Service, file: str, name: str | None, format: str) -> dict[str, Any]:
    """Imports `file` into the embedded store; what became of it, as `streamer import --json` prints it."""
    with source(file) as opened, progress(file, opened.size if isinstance(opened, Input) else None) as advance:
        async with anyio.create_task_group() as tasks:
            if isinstance(opened, Input):
                tasks.start_soon(stop_when_cancelled, opened)
            with about(file):
                report = await service.local.import_archive(
                    opened,
                    name=name,
                    kind=ArchiveKind(format),
                    progress=advance,
                    limits=Limits(total=service.settings.max_import_bytes),
                )
            tasks.cancel_scope.cancel()
    return {
        "images": [image_value(image) for image in report.images],
        "layers_new": report.layers_new,
        "layers_shared": report.layers_shared,
        "bytes": report.bytes,
        "moved": dict(report.moved),
    }


@contextmanager
def about(file: str) -> Iterator[None]:
    """What is wrong with an archive is said with its name, where it has one."""
    try:
        yield
    except (InvalidArchive, LimitExceeded, Unsupported) as error:
        if file != "-":
            error.args = (f"{file}: {error}",)
        raise


async def stop_when_cancelled(opened: Input) -> None:
    # The import's thread is waited for when the command is cancelled, and it may wait for input that never comes.
    try:
        await anyio.sleep_forever()
    finally:
        opened.stop()
