"""`streamer export`: a layer, a diff, a container, images or a root file system into a file or a pipe."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import typer

from streamer.cli.complain import say
from streamer.cli.options import Compression, Format, FromStore, Kind, Profile, State, Stores
from streamer.cli.running import Given, alone, on, settings
from streamer.errors import InvalidRequest
from streamer.sinks.address import is_object

if TYPE_CHECKING:
    from streamer.export.plan import ExportPlan, Report
    from streamer.service import Service


_SERVICE = "From a running service"
_STORAGE = "Into object storage"
Length: TypeAlias = Literal["auto", "known", "unknown"]

_LATEST = (1 << 33) - 1
"""The last second that a tar header's octal digits can tell."""


def _seconds(text: str) -> int:
    try:
        seconds = int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a number of seconds") from None
    if not 0 <= seconds <= _LATEST:
        raise typer.BadParameter(f"{text!r} is not between 0 and {_LATEST}")
    return seconds


def export(
    context: typer.Context,
    kind: Annotated[
        Kind,
        typer.Argument(
            metavar="KIND",
            help="layer: one layer, byte for byte. diff: a container's changes, as a layer. container: its whole file "
            "system. image: one or more saved images. rootfs: an image's flattened file system.",
            show_default=False,
        ),
    ],
    refs: Annotated[
        list[str],
        typer.Argument(
            metavar="REF",
            help="A diff ID or chain ID; a container; images by name (without a tag: all tags) or ID.",
            show_default=False,
        ),
    ],
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
    compression: Annotated[
        Compression | None,
        typer.Option(
            metavar="METHOD",
            help="none, gzip, bzip2, xz or zstd. Without it, what the FILE's name says (.gz, .tgz, .zst …), else none.",
            show_default=False,
        ),
    ] = None,
    profile: Annotated[
        Profile,
        typer.Option(
            metavar="PROFILE", help="docker: as Docker writes archives. full: nanoseconds, every xattr, sparse files."
        ),
    ] = "docker",
    include: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Only what matches (dockerignore). May be repeated.", show_default=False),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Not what matches (dockerignore). May be repeated.", show_default=False),
    ] = None,
    mtime: Annotated[
        int | None,
        typer.Option(
            metavar="SECONDS",
            parser=_seconds,
            help="No modification time later than this, in seconds since the epoch.",
            show_default=False,
        ),
    ] = None,
    path: Annotated[str | None, typer.Option(metavar="PATH", help="Only this subtree.", show_default=False)] = None,
    pause: Annotated[
        bool | None,
        typer.Option(
            "--pause/--no-pause",
            help="Of a container or diff: its engine pauses the container while it is read, so that no file is half "
            "written. Volumes are not part of an export, and not paused.",
            show_default=False,
        ),
    ] = None,
    format: Annotated[
        Format | None,
        typer.Option(
            metavar="FORMAT",
            help="Of saved images. oci, the default: OCI layout with manifest.json. docker-legacy: a directory per "
            "layer.",
            show_default=False,
        ),
    ] = None,
    no_overwrite: Annotated[
        bool,
        typer.Option(
            "--no-overwrite", help="Fail (exit code 4) if the FILE or object exists, instead of replacing it."
        ),
    ] = False,
    part_size: Annotated[
        int | None,
        typer.Option(
            metavar="MIB",
            min=5,
            max=4000,
            help="Into object storage: MiB that are sent at a time (also STREAMER_PART_SIZE; otherwise 16).",
            show_default=False,
            rich_help_panel=_STORAGE,
        ),
    ] = None,
    concurrency: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            max=64,
            help="Into object storage: parts made and sent at once (also STREAMER_UPLOAD_CONCURRENCY; otherwise 4).",
            show_default=False,
            rich_help_panel=_STORAGE,
        ),
    ] = None,
    digest_first: Annotated[
        bool,
        typer.Option(
            "--digest-first",
            help="Into object storage: read everything once more beforehand, so that the object's metadata has the "
            "digest also where it is not known.",
            rich_help_panel=_STORAGE,
        ),
    ] = False,
    from_store: FromStore = None,
    state: State = None,
    store: Stores = None,
    url: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="URL",
            help="Download from the service at http://HOST:PORT, https://HOST:PORT or unix:PATH. Into a FILE, the same "
            "command goes on where an earlier one was broken off; lost connections are tried 8 times in a row.",
            show_default=False,
            rich_help_panel=_SERVICE,
        ),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Show the service the token in FILE (also STREAMER_TOKEN_FILE).",
            show_default=False,
            readable=False,
            rich_help_panel=_SERVICE,
        ),
    ] = None,
    ca: Annotated[
        Path | None,
        typer.Option(
            "--ca",
            metavar="FILE",
            help="Trust these authorities (PEM) instead of the system's.",
            show_default=False,
            readable=False,
            rich_help_panel=_SERVICE,
        ),
    ] = None,
    certificate: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Show the service this certificate (PEM, with its key).",
            show_default=False,
            readable=False,
            rich_help_panel=_SERVICE,
        ),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            max=16,
            help="Download so many parts of a FILE at once. Without it, one.",
            show_default=False,
            rich_help_panel=_SERVICE,
        ),
    ] = None,
    length: Annotated[
        Length | None,
        typer.Option(
            metavar="WHEN",
            help="known: learn the length first, also of a running container (whose download still cannot be resumed). "
            "unknown: begin at once. auto, the default: known for all that stands still.",
            show_default=False,
            rich_help_panel=_SERVICE,
        ),
    ] = None,
    unverified: Annotated[
        bool,
        typer.Option(
            "--no-verify",
            help="Do not ask the service for the digest of what was downloaded, which it may have to read once more.",
            rich_help_panel=_SERVICE,
        ),
    ] = False,
) -> None:
    """Stream an archive into a file, a pipe, or object storage.

    A failed export never leaves a file or an object, and never ends a pipe with exit code 0.
    """
    if kind != "image" and len(refs) > 1:
        raise InvalidRequest(f"cannot export {len(refs)} things as one {kind}: name one (only images can be several)")
    if kind != "image" and format is not None:
        raise InvalidRequest("--format is for saved images only", parameter="format")
    if pause and kind not in ("container", "diff"):
        raise InvalidRequest(f"--pause is for containers and their diffs: a {kind} never changes", parameter="pause")
    subtree = _path(path)
    image_format = format or "oci"
    if url is None:
        for option, given in (
            ("--jobs", jobs),
            ("--length", length),
            ("--no-verify", unverified),
            ("--token-file", token_file),
            ("--ca", ca),
            ("--certificate", certificate),
        ):
            if given:
                raise InvalidRequest(f"{option} is for downloads: it needs --from URL", parameter=option[2:])
    else:
        from streamer.cli.downloading import downloaded
        from streamer.client.request import archive
        from streamer.export.naming import basename
        from streamer.settings import token_file as shown_token

        if is_object(output or "") or no_overwrite:
            raise InvalidRequest(
                "a download goes into a FILE or a pipe, and replaces the FILE: leave out --from, or run the export on "
                "the service",
                parameter="output",
            )
        _refuse_own_stores(context, state, store)

        request = archive(
            kind,
            refs,
            store=from_store,
            compression=compression or compression_named(output),
            profile=profile,
            include=include or (),
            exclude=exclude or (),
            mtime=mtime,
            path=subtree,
            pause=bool(pause),
            format=image_format,
            length=length or "auto",
        )
        suggestion = f"{basename(refs[0])}.tar"
        named = token_file or shown_token()
        alone(
            partial(
                downloaded,
                url,
                request,
                output,
                suggestion,
                jobs=jobs,
                verify=not unverified,
                token_file=str(named) if named is not None else None,
                ca=str(ca) if ca is not None else None,
                certificate=str(certificate) if certificate is not None else None,
            )
        )
        return

    async def command(service: Service) -> None:
        from streamer.cli.uploading import uploaded
        from streamer.export.image import Format
        from streamer.export.plan import Options
        from streamer.jobs.planning import Wanted, What, planned
        from streamer.tar.compression import Compression
        from streamer.tar.entry import Profile

        options = Options(
            compression=Compression(compression or compression_named(output)),
            profile=Profile(profile),
            include=tuple(include or ()),
            exclude=tuple(exclude or ()),
            mtime=mtime,
            path=subtree,
            pause=bool(pause),
        )
        wanted = Wanted(What(kind), tuple(refs), from_store, options, Format(image_format))
        plan = await planned(service.catalog, wanted)
        if is_object(output or ""):
            assert output is not None
            tell(await uploaded(service, plan, output, replace=not no_overwrite, digest_first=digest_first))
        else:
            tell(await send(service, plan, output, replace=not no_overwrite))

    on(settings(context, state, store, part_size=part_size, upload_concurrency=concurrency), command)


def _refuse_own_stores(context: typer.Context, state: Path | None, stores: list[str] | None) -> None:
    before = context.find_object(Given) or Given()
    if state is not None or stores or before.state is not None or before.stores:
        raise InvalidRequest(
            "--state and --store cannot go with --from: a service has stores of its own, of which --from-store NAME "
            "chooses one",
            parameter="from",
        )


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


def _path(path: str | None) -> bytes:
    if path is not None and (not path or "\0" in path):
        raise InvalidRequest("--path is empty or holds a NUL", parameter="path")
    return os.fsencode(path or "")


async def send(service: Service, plan: ExportPlan, name: str | None, *, replace: bool) -> Report:
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


def tell(report: Report) -> None:
    """What a person should know about a good archive. Nothing away from a terminal: there only errors are printed."""
    import sys

    if not sys.stderr.isatty():
        return
    if report.sockets:
        say(f"left out {report.sockets} sockets, which an archive cannot hold")
    if report.vanished:
        say(f"{report.vanished} files vanished before their turn came")
