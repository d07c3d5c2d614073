"""`streamer serve`: the HTTP service until a signal ends it."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from streamer.cli.complain import single
from streamer.cli.options import State, Stores
from streamer.cli.running import settings


def serve(
    context: typer.Context,
    listen: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ADDR",
            help="HOST:PORT or unix:PATH (also STREAMER_LISTEN; otherwise 127.0.0.1:8080). May be repeated.",
            show_default=False,
        ),
    ] = None,
    state: State = None,
    store: Stores = None,
) -> None:
    """Serve the HTTP API until SIGTERM or Ctrl-C; open downloads may then end, a second signal breaks them.

    Exit code 0 if every download ended by itself, 1 if any had to be broken off.
    """
    chosen = settings(context, state, store, listen=listen or None)
    import anyio

    from streamer.service import serve as served

    try:
        status = anyio.run(partial(served, chosen))
    except BaseExceptionGroup as group:
        raise single(group) from None
    raise typer.Exit(status)
