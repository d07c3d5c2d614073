"""`streamer context`: a build context as an archive, from a directory or from standard input."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from streamer.cli.options import CONTEXT, Method, NoOverwrite, Output, Owner
from streamer.cli.running import settings, storeless
from streamer.cli.writing import compression_named, written
from streamer.errors import InvalidRequest

if TYPE_CHECKING:
    from streamer.export.plan import ExportPlan
    from streamer.service import Service


def context(
    context: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help=CONTEXT,
            show_default=False,
        ),
    ],
    file: Annotated[
        str | None,
        typer.Option(
            "--file",
            "-f",
            metavar="PATH",
            help="The Dockerfile, from the context's root. It is sent whatever .dockerignore says.",
            show_default=False,
        ),
    ] = None,
    output: Output = None,
    owner: Annotated[
        Owner,
        typer.Option(
            metavar="OWNER",
            help="root: every file is root's, as the docker command sends it. keep: owners stay, and an archive from "
            "standard input passes byte for byte.",
        ),
    ] = "root",
    compression: Method = None,
    no_overwrite: NoOverwrite = False,
) -> None:
    """Stream what a builder is sent into a file, a pipe, or object storage.

    Of a directory it is byte for byte what the docker command sends. No server and no store is needed.
    """
    if file is not None and (not file or "\0" in file):
        raise InvalidRequest("--file is empty or holds a NUL", parameter="file")

    async def command(service: Service) -> None:
        import anyio.to_thread

        from streamer.cli.source import Input, stopping
        from streamer.cli.source import source as opened
        from streamer.context.directory import plan_directory
        from streamer.context.incoming import plan_incoming
        from streamer.context.opening import EVERY, Network
        from streamer.context.opening import opened as elsewhere
        from streamer.context.plan import Choices
        from streamer.context.plan import Owner as Owners
        from streamer.context.source import Kind, kind
        from streamer.service import policy
        from streamer.tar.compression import Compression as Compressions
        from streamer.tar.source import Limits

        choices = Choices(
            Owners(owner),
            Compressions(compression or compression_named(output)),
            None if file is None else os.fsencode(file),
        )

        async def write(plan: ExportPlan) -> None:
            await written(service, plan, output, replace=not no_overwrite)

        found = kind(source, is_directory=os.path.isdir(source))  # noqa: ASYNC240
        if found in (Kind.GIT, Kind.URL):
            network = Network(policy(service.settings), EVERY, service.settings.max_import_bytes)
            async with elsewhere(source, choices, network, Path(tempfile.gettempdir())) as there:
                await write(there.plan)
            return
        if found is Kind.DIRECTORY:
            made = await anyio.to_thread.run_sync(plan_directory, os.fsencode(source), choices)
            await write(made.plan)
            return
        with opened("-") as given:
            if not isinstance(given, Input):
                raise InvalidRequest("standard input is a directory: name it as SOURCE")
            taken = given

            def planned() -> ExportPlan:
                return plan_incoming(taken, choices, name=taken.name, limits=Limits()).plan

            async with stopping(taken):
                await write(await anyio.to_thread.run_sync(planned))

    storeless(settings(context, None, None), command)
