"""`streamer context`: a build context as an archive, from a directory or from standard input."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from streamer.cli.export import compression_named, send, tell
from streamer.cli.options import Compression, Owner
from streamer.cli.running import settings, storeless
from streamer.errors import InvalidRequest
from streamer.sinks.address import is_object

if TYPE_CHECKING:
    from streamer.export.plan import ExportPlan
    from streamer.service import Service


def context(
    context: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A directory, without what its .dockerignore leaves out; a git repository as URL#REF:SUBDIR; the URL "
            "of an archive or of a Dockerfile; or - for standard input: an archive in any compression, or a bare "
            "Dockerfile.",
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
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE|-|URI",
            help="Where to write: a FILE, or an object as s3://BUCKET/KEY, gs://BUCKET/KEY, az://CONTAINER/KEY. Either "
            "appears only when it is complete. Without it, standard output.",
            show_default=False,
        ),
    ] = None,
    owner: Annotated[
        Owner,
        typer.Option(
            metavar="OWNER",
            help="root: every file is root's, as the docker command sends it. keep: owners stay, and an archive from "
            "standard input passes byte for byte.",
        ),
    ] = "root",
    compression: Annotated[
        Compression | None,
        typer.Option(
            metavar="METHOD",
            help="none, gzip, bzip2, xz or zstd. Without it, what the FILE's name says (.gz, .tgz, .zst …), else none.",
            show_default=False,
        ),
    ] = None,
    no_overwrite: Annotated[
        bool,
        typer.Option(
            "--no-overwrite", help="Fail (exit code 4) if the FILE or object exists, instead of replacing it."
        ),
    ] = False,
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
        from streamer.cli.uploading import uploaded
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
            if is_object(output or ""):
                assert output is not None
                tell(await uploaded(service, plan, output, replace=not no_overwrite, digest_first=False))
            else:
                tell(await send(service, plan, output, replace=not no_overwrite))

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
