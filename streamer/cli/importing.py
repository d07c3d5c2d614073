"""The work of `streamer import`: a source that signals can interrupt, progress by what was read, a report as data."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from streamer.cli.progress import progress
from streamer.cli.source import Input, source, stopping
from streamer.errors import InvalidArchive, LimitExceeded, Unsupported
from streamer.stores.base import ArchiveKind
from streamer.stores.values import image_value
from streamer.tar.reader import Limits

if TYPE_CHECKING:
    from streamer.service import Service


async def imported(service: Service, file: str, name: str | None, format: str) -> dict[str, Any]:
    """Imports `file` into the embedded store; what became of it, as `streamer import --json` prints it."""
    with source(file) as opened, progress(file, opened.size if isinstance(opened, Input) else None) as advance:
        async with stopping(opened):
            with about(file):
                report = await service.local.import_archive(
                    opened,
                    name=name,
                    kind=ArchiveKind(format),
                    progress=advance,
                    limits=Limits(total=service.settings.max_import_bytes),
                )
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
