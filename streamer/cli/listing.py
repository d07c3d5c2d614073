"""`streamer ls` and `streamer changes`: what is there, with the same records that the HTTP API gives."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from streamer.cli.complain import printable, say
from streamer.cli.emit import emit
from streamer.cli.exit import CODES, UNEXPECTED
from streamer.cli.options import ContainerName, FromStore, Json, State, Stores
from streamer.cli.running import on, settings, work
from streamer.cli.table import Column, Record, moment, short, show, size
from streamer.errors import InvalidRequest

if TYPE_CHECKING:
    from streamer.export.exporter import ExportStream
    from streamer.service import Service

_COLUMNS = {
    "images": (
        Column("NAME", lambda one: one["name"] or "<none>"),
        Column("ID", lambda one: one["id"], lambda one: short(one["id"])),
        Column("CREATED", lambda one: one["created"], lambda one: moment(one["created"])),
        Column("LAYERS", lambda one: len(one["layers"]), number=True),
        Column("SIZE", lambda one: one["size"], lambda one: size(one["size"]), number=True),
        Column("STORE", lambda one: one["store"]),
    ),
    "containers": (
        Column("NAME", lambda one: one["name"]),
        Column("ID", lambda one: one["id"], lambda one: short(one["id"])),
        Column(
            "IMAGE", lambda one: one["image_name"] or one["image"], lambda one: one["image_name"] or short(one["image"])
        ),
        Column("CREATED", lambda one: one["created"], lambda one: moment(one["created"])),
        Column("STATUS", lambda one: one["status"] or "-"),
        Column("STORE", lambda one: one["store"]),
    ),
    "layers": (
        Column("DIFF ID", lambda one: one["diff_id"], lambda one: short(one["diff_id"])),
        Column("CHAIN ID", lambda one: one["chain_id"], lambda one: short(one["chain_id"])),
        Column("SIZE", lambda one: one["size"], lambda one: size(one["size"]), number=True),
        Column("STORE", lambda one: one["store"]),
    ),
    "stores": (
        Column("NAME", lambda one: one["name"]),
        Column("KIND", lambda one: one["kind"]),
        Column("LOCATION", lambda one: one["location"]),
    ),
}


def ls(
    context: typer.Context,
    what: Annotated[
        Literal["images", "containers", "layers", "stores"],
        typer.Argument(metavar="WHAT", help="What to list: images, containers, layers or stores."),
    ] = "images",
    from_store: FromStore = None,
    everything: Annotated[
        bool, typer.Option("--all", "-a", help="Also images that are only steps of a build to others.")
    ] = False,
    as_json: Json = False,
    state: State = None,
    store: Stores = None,
) -> None:
    """List images, containers, layers or stores.

    A table on a terminal; otherwise a line each, tab-separated and without a header, with whole IDs and sizes in bytes.
    What cannot be read is warned of; the exit code tells it if a store that was named cannot be read at all.
    """

    if everything and what != "images":
        raise InvalidRequest(f"--all is for images: of {what}, all are listed", parameter="all")

    async def command(service: Service) -> list[dict[str, Any]]:
        return await _records(service, what, from_store, everything)

    chosen = settings(context, state, store)
    listed = on(chosen, command)
    records: Sequence[Record] = listed
    if not as_json:
        records = [one for one in listed if "error" not in one]
        for one in listed:
            if "error" in one:
                detail = one["error"]["detail"].removeprefix(f"store {one['store']}: ")
                say(f"warning: {_damaged(what, one)}: {detail}")
    if what == "images" and not as_json:
        # A line for each name, as every engine has it.
        records = [{**one, "name": name} for one in records for name in one["names"] or [""]]
    show(records, _COLUMNS[what], as_json=as_json)
    unread = [one for one in listed if "error" in one and not one["id"]]
    if unread and (chosen.stores or len(unread) == len(listed)):
        # A script must not take a store that was named, or all there are, for empty ones.
        raise typer.Exit(CODES.get(unread[0]["error"]["code"], UNEXPECTED))


async def _records(service: Service, what: str, name: str | None, everything: bool) -> list[dict[str, Any]]:
    from streamer.stores import values

    catalog = service.catalog
    if what == "stores":
        return [values.store_value(each) for each in catalog.stores(name)]
    if what == "images":
        images = await catalog.images(name)
        local = service.embedded if everything else None
        steps = await local.steps() if local is not None and name in (None, local.name) else ()
        return [*map(values.image_value, (*images, *steps)), *map(values.damaged_value, images.damaged)]
    if what == "containers":
        containers = await catalog.containers(name)
        return [*map(values.container_value, containers), *map(values.damaged_value, containers.damaged)]
    layers = await catalog.layers(name)
    return [*map(values.layer_value, layers), *map(values.damaged_value, layers.damaged)]


def _damaged(what: str, one: Record) -> str:
    """What could not be listed, for a person."""
    if not one["id"]:
        return f"store {one['store']} cannot be read"
    kind = what.removesuffix("s")
    if one["names"]:
        subject = f"{kind} {one['names'][0]}"
    elif " " in one["id"]:  # a place in a file, which the error tells
        subject = f"some {what}"
    elif "/" in one["id"]:  # the file of all names
        subject = f"{kind} names"
    else:
        subject = f"{kind} {short(one['id'])}"
    return f"{subject} of store {one['store']} cannot be read"


def changes(
    context: typer.Context,
    container: ContainerName,
    from_store: FromStore = None,
    as_json: Json = False,
    state: State = None,
    store: Stores = None,
) -> None:
    """What was added (A), changed (C) and deleted (D) in a container since it was created.

    A letter, a tab and the path a line, parents first; control characters in a path are escaped. What --json prints can
    be told apart and undone whatever the names hold.
    """

    async def command(service: Service) -> None:
        from streamer.export.diff import plan_changes

        plan = plan_changes(await service.catalog.container(container, from_store))
        async with service.exporter.open(plan) as stream:
            if as_json:
                async for chunk in stream:
                    emit(chunk.decode(), end="")
            else:
                async with aclosing(_items(stream)) as items:
                    async for item in items:
                        emit(f"{item['kind']}\t{printable(item['path'])}")

    work(context, state, store, command)


async def _items(stream: ExportStream) -> AsyncGenerator[dict[str, str]]:
    """The objects of the JSON array, which comes with one on each line."""
    rest = b""
    async for chunk in stream:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if b"{" in line:
                yield json.loads(line[line.index(b"{") : line.rindex(b"}") + 1])
