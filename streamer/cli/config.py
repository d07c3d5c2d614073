"""`streamer config`: every setting in force, and where it is from."""

from __future__ import annotations

from typing import Annotated

import typer

from streamer.cli.options import Config, Json, State, Stores
from streamer.cli.running import file, flags
from streamer.cli.table import Column, show


def config(
    context: typer.Context,
    as_json: Json = False,
    describe: Annotated[bool, typer.Option("--describe", help="Say what each setting means.")] = False,
    config: Config = None,
    state: State = None,
    store: Stores = None,
) -> None:
    """Print the settings in force and where each is from: a flag, the environment, a file, or the default.

    A setting `name` is the variable STREAMER_NAME and the key `name` of the file. Secrets are not shown.
    """
    from streamer.settings import explained, file_in_force

    named = file(context, config)
    settings = explained(named, **flags(context, state, store))
    used = file_in_force(named)
    records = [
        {"name": each.name, "value": each.shown, "from": each.origin, "description": each.description}
        for each in settings
    ]
    columns = [
        Column("NAME", lambda one: one["name"]),
        Column("VALUE", lambda one: ",".join(one["value"]) if isinstance(one["value"], list) else one["value"]),
        Column("FROM", lambda one: f"file {used}" if one["from"] == "file" else one["from"]),
    ]
    if describe:
        columns.append(Column("MEANING", lambda one: one["description"]))
    show(records, columns, as_json=as_json)
