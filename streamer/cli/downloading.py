"""The work of `streamer export --from`: an archive of a running service into a file or a pipe."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from streamer.cli.complain import failed, say
from streamer.cli.output import destination, replaceable
from streamer.cli.progress import watching
from streamer.client.download import download
from streamer.client.node import connect
from streamer.client.stream import stream
from streamer.errors import InvalidRequest, StreamerError

if TYPE_CHECKING:
    from streamer.client.request import Request


async def downloaded(
    url: str, request: Request, output: str | None, suggestion: str, *, jobs: int | None, verify: bool
) -> None:
    """`request` from the service at `url` to where `-o` says; `suggestion` is a file name to propose."""
    file = output if output not in (None, "-") and replaceable(output, suggestion) else None
    if file is None and jobs is not None and jobs > 1:
        raise InvalidRequest("--jobs needs a file (-o FILE): a pipe is written in order", parameter="jobs")
    async with connect(url) as node:
        with watching(file or suggestion) as watch:
            if file is not None:
                try:
                    report = await download(node, request, file, jobs=jobs or 1, verify=verify, watch=watch)
                except OSError as error:
                    raise failed("write", file, error, StreamerError) from error
            else:
                async with destination(output, suggestion) as opened:
                    report = await stream(node, request, opened.write, verify=verify, watch=watch)
                    await opened.commit()
    if report.unverified and (report.versioned or sys.stderr.isatty()):
        rest = "; length and version were" if report.versioned else ""
        say(f"the digest was not checked ({report.unverified}){rest}")
