"""What changes the embedded store: import, create, mount, unmount, commit, tag, rm, prune."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streamer.cli.complain import complain, printable, say
from streamer.cli.emit import emit, flush
from streamer.cli.exit import status
from streamer.cli.options import ContainerName, ImageName, ImportFormat, Json, State, Stores
from streamer.cli.running import work
from streamer.cli.table import short
from streamer.errors import InvalidRequest, StreamerError

if TYPE_CHECKING:
    from streamer.service import Service


def import_(
    context: typer.Context,
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE|-",
            help="An archive in any compression, or the directory of an OCI layout.",
            show_default=False,
        ),
    ],
    name: Annotated[
        str | None,
        typer.Option(
            metavar="REF", help="The image's name, instead of those that the archive gives.", show_default=False
        ),
    ] = None,
    format: Annotated[
        ImportFormat,
        typer.Option(metavar="FORMAT", help="What it is: docker-archive, oci or rootfs. auto finds out."),
    ] = "auto",
    as_json: Json = False,
    state: State = None,
    store: Stores = None,
) -> None:
    """Import images, or a root file system as an image: verified, and all or nothing.

    Prints a line for each image: its ID, a tab, and every name that it now has, with spaces between them.
    """

    async def command(service: Service) -> dict[str, Any]:
        from streamer.cli.importing import imported

        return await imported(service, file, name, format)

    report = work(context, state, store, command, create=True)
    images = {image["id"]: image["names"] for image in report["images"]}
    for image_id, names in images.items():
        if not names:
            given = f"--name or: streamer tag {short(image_id)} NAME"
            say(f"note: the archive gives no name; give one with {given}")
    if as_json:
        emit(json.dumps(report, indent=2))
        return
    if sys.stderr.isatty():
        for moved, image_id in report["moved"].items():
            say(f"the name {moved} was taken from image {short(image_id)}")
    for image_id, names in images.items():
        emit(f"{image_id}\t{' '.join(names) or '<none>'}")


def create(
    context: typer.Context,
    image: ImageName,
    name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The container's name; without it, one is made up.", show_default=False),
    ] = None,
    state: State = None,
    store: Stores = None,
) -> None:
    """Create a container from an image. Prints its ID."""

    async def command(service: Service) -> str:
        return (await service.local.create(image, name)).id

    emit(work(context, state, store, command))


def mount(
    context: typer.Context,
    container: ContainerName,
    directory: Annotated[
        Path | None,
        typer.Argument(
            metavar="DIR", help="Where; without it, in the store's own directory.", show_default=False, readable=False
        ),
    ] = None,
    state: State = None,
    store: Stores = None,
) -> None:
    """Mount a container's file system so that it can be changed. Prints the directory. Needs root."""

    async def command(service: Service) -> Path:
        return await service.local.mount(container, directory)

    emit(os.fspath(work(context, state, store, command)))


def unmount(context: typer.Context, container: ContainerName, state: State = None, store: Stores = None) -> None:
    """Undo `streamer mount`."""
    if "/" in container:
        raise InvalidRequest("unmount takes the container's name or ID, not the directory")

    async def command(service: Service) -> None:
        await service.local.unmount(container)

    work(context, state, store, command)


def commit(
    context: typer.Context,
    container: ContainerName,
    ref: Annotated[str, typer.Argument(metavar="REF", help="The new image's name.", show_default=False)],
    message: Annotated[str, typer.Option(metavar="TEXT", help="For the image's history.", show_default=False)] = "",
    author: Annotated[str, typer.Option(metavar="WHO", help="For the image's history.", show_default=False)] = "",
    state: State = None,
    store: Stores = None,
) -> None:
    """Make a new image of a container: its changes become a layer. Prints the image's ID."""

    async def command(service: Service) -> str:
        from streamer.export.commit import commit as made

        image = await made(service.local, service.exporter, container, ref, comment=message, author=author)
        return image.id

    emit(work(context, state, store, command))


def tag(
    context: typer.Context,
    image: ImageName,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The name to add.", show_default=False)],
    state: State = None,
    store: Stores = None,
) -> None:
    """Give an image one more name."""

    async def command(service: Service) -> None:
        await service.local.tag(image, name)

    work(context, state, store, command)


def rm(
    context: typer.Context,
    refs: Annotated[
        list[str], typer.Argument(metavar="REF", help="Containers and images, by name or ID.", show_default=False)
    ],
    force: Annotated[bool, typer.Option("--force", "-f", help="Even what is mounted or in use.")] = False,
    containers: Annotated[bool, typer.Option("--container", help="Every REF is a container.")] = False,
    images: Annotated[bool, typer.Option("--image", help="Every REF is an image.")] = False,
    state: State = None,
    store: Stores = None,
) -> None:
    """Remove containers and images. Prints what was removed; goes on after one that could not be.

    The name of an image that has other names is only taken away from it.
    """
    both = containers == images

    async def command(service: Service) -> StreamerError | None:
        from streamer.cli.removing import removed

        first = None
        for ref in refs:
            try:
                line = await removed(service.local, ref, force, containers or both, images or both)
            except StreamerError as error:
                complain(error)
                first = first or error
            else:
                emit(printable(line))
                flush()
        return first

    error = work(context, state, store, command)
    if error is not None:
        raise typer.Exit(status(error))


def prune(context: typer.Context, state: State = None, store: Stores = None) -> None:
    """Remove images that have no name and that nothing needs: no container, and no image with a name built on them.

    The build cache loses what it had of them. Prints their IDs.
    """

    async def command(service: Service) -> None:
        images, layers = await service.local.prune()
        for image in images:
            emit(image)
        if sys.stderr.isatty():
            say(f"removed {len(images)} images, {layers} layers")

    work(context, state, store, command)
