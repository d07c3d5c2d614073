"""Where `streamer export` and `context` write: a file, a pipe or object storage; and what is said of it then."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from streamer.cli.complain import say
from streamer.cli.options import Compression
from streamer.sinks.address import is_object

if TYPE_CHECKING:
    from streamer.export.plan import ExportPlan, Report
    from streamer.service import Service

_SUFFIXES: dict[str, Compression] = {
    ".gz": "gzip",
    ".tgz": "gzip",
    ".bz2": "bzip2",
    ".tbz2": "bzip2",
    ".xz": "xz",
    ".txz": "xz",
    ".zst": "zstd",
    ".tzst": "zstd",
}


def compression_named(output: str | None) -> Compression:
    """The compression that a file's name promises: `x.tar.gz` that is a plain tar would mislead whoever gets it."""
    return _SUFFIXES.get(os.path.splitext(output or "")[1].lower(), "none")


async def written(
    service: Service, plan: ExportPlan, output: str | None, *, replace: bool, digest_first: bool = False
) -> None:
    """The export to where `-o` says; `digest_first` is for objects."""
    if output is not None and is_object(output):
        from streamer.cli.uploading import uploaded

        report = await uploaded(service, plan, output, replace=replace, digest_first=digest_first)
    else:
        report = await _sent(service, plan, output, replace=replace)
    _tell(report)


async def _sent(service: Service, plan: ExportPlan, name: str | None, *, replace: bool) -> Report:
    from streamer.cli.output import destination
    from streamer.cli.progress import progress

    async with destination(name, plan.filename, replace=replace) as output:
        with progress(plan.filename, plan.length) as advance:
            async with service.exporter.open(plan) as stream:
                async for chunk in stream:
                    await output.write(chunk)
                    advance(stream.received)
            await output.commit()
    return stream.report


def _tell(report: Report) -> None:
    """What a person should know about a good archive. Nothing away from a terminal: there only errors are printed."""
    if not sys.stderr.isatty():
        return
    if report.sockets:
        say(f"left out {report.sockets} sockets, which an archive cannot hold")
    if report.vanished:
        say(f"{report.vanished} files vanished before their turn came")
