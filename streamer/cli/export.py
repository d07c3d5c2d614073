"""`streamer export`: a layer, a diff, a container, images or a root file system into a file or a pipe."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from streamer.cli import export_options as options
from streamer.cli.archive import Archive
from streamer.cli.options import FromStore, Method, NoOverwrite, Output, State, Stores
from streamer.cli.running import Given, alone, on, settings
from streamer.cli.writing import compression_named, written
from streamer.errors import InvalidRequest
from streamer.sinks.address import is_object

if TYPE_CHECKING:
    from streamer.service import Service


def export(
    context: typer.Context,
    kind: options.What,
    refs: options.Refs,
    output: Output = None,
    compression: Method = None,
    profile: options.Profile = "docker",
    include: options.Include = None,
    exclude: options.Exclude = None,
    mtime: options.Mtime = None,
    path: options.Subtree = None,
    pause: options.Pause = None,
    format: options.Format = None,
    no_overwrite: NoOverwrite = False,
    part_size: options.PartSize = None,
    concurrency: options.Concurrency = None,
    digest_first: options.DigestFirst = False,
    from_store: FromStore = None,
    state: State = None,
    store: Stores = None,
    url: options.From = None,
    token_file: options.TokenFile = None,
    ca: options.Authorities = None,
    certificate: options.Certificate = None,
    jobs: options.Jobs = None,
    length: options.When = None,
    unverified: options.Unverified = False,
) -> None:
    """Stream an archive into a file, a pipe, or object storage.

    A failed export never leaves a file or an object, and never ends a pipe with exit code 0.
    """
    archive = Archive(
        kind=kind,
        refs=tuple(refs),
        store=from_store,
        compression=compression or compression_named(output),
        profile=profile,
        include=tuple(include or ()),
        exclude=tuple(exclude or ()),
        mtime=mtime,
        path=_path(path),
        pause=bool(pause),
        format=format,
    )
    if not is_object(output or ""):
        of_storage = {"--part-size": part_size, "--concurrency": concurrency, "--digest-first": digest_first}
        _refuse(of_storage, "is for object storage: it needs -o with a URI as s3://BUCKET/KEY")
    if url is None:
        of_service = {
            "--jobs": jobs,
            "--length": length,
            "--no-verify": unverified,
            "--token-file": token_file,
            "--ca": ca,
            "--certificate": certificate,
        }
        _refuse(of_service, "is for downloads: it needs --from URL")
    elif is_object(output or "") or no_overwrite:
        raise InvalidRequest(
            "a download goes into a FILE or a pipe, and replaces the FILE: leave out --from, or run the export on "
            "the service",
            parameter="output",
        )
    else:
        from streamer.cli.downloading import downloaded
        from streamer.settings import token_file as shown_token

        _refuse_own_stores(context, state, store)
        alone(
            context,
            partial(
                downloaded,
                url,
                archive.request(length or "auto"),
                output,
                archive.filename,
                jobs=jobs,
                verify=not unverified,
                token_file=_name(token_file or shown_token()),
                ca=_name(ca),
                certificate=_name(certificate),
            ),
        )
        return

    async def command(service: Service) -> None:
        from streamer.jobs.planning import planned

        plan = await planned(service.catalog, archive.wanted())
        await written(service, plan, output, replace=not no_overwrite, digest_first=digest_first)

    on(settings(context, state, store, part_size=part_size, upload_concurrency=concurrency), command)


def _path(path: str | None) -> bytes:
    if path is not None and (not path or "\0" in path):
        raise InvalidRequest("--path is empty or holds a NUL", parameter="path")
    return os.fsencode(path or "")


def _name(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _refuse(given: Mapping[str, object], why: str) -> None:
    """InvalidRequest for the first of these options that was given."""
    for option, value in given.items():
        if value:
            raise InvalidRequest(f"{option} {why}", parameter=option[2:])


def _refuse_own_stores(context: typer.Context, state: Path | None, stores: list[str] | None) -> None:
    before = context.find_object(Given) or Given()
    if state is not None or stores or before.state is not None or before.stores:
        raise InvalidRequest(
            "--state and --store cannot go with --from: a service has stores of its own, of which --from-store NAME "
            "chooses one",
            parameter="from",
        )
