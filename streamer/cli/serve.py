"""`streamer serve`: the HTTP service until a signal ends it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from streamer.cli.complain import single
from streamer.cli.options import Config, State, Stores
from streamer.cli.running import file, flags

_ENTRANCE = "Who gets in"


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
    tokens: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Tokens that let callers in, made with `streamer token new` (also STREAMER_TOKENS).",
            show_default=False,
            readable=False,
            rich_help_panel=_ENTRANCE,
        ),
    ] = None,
    tls_certificate: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Certificate and chain for TLS, in PEM (also STREAMER_TLS_CERTIFICATE).",
            show_default=False,
            readable=False,
            rich_help_panel=_ENTRANCE,
        ),
    ] = None,
    tls_key: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Its key, if not in the same file (also STREAMER_TLS_KEY).",
            show_default=False,
            readable=False,
            rich_help_panel=_ENTRANCE,
        ),
    ] = None,
    tls_client_ca: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Let in only clients with a certificate of these authorities (also STREAMER_TLS_CLIENT_CA).",
            show_default=False,
            readable=False,
            rich_help_panel=_ENTRANCE,
        ),
    ] = None,
    config: Config = None,
    state: State = None,
    store: Stores = None,
) -> None:
    """Serve the HTTP API until SIGTERM or Ctrl-C; open downloads may then end, a second signal breaks them.

    SIGHUP reads tokens and certificates again. Every other setting comes from a file or the environment: see
    `streamer config`.

    Exit code 0 if every download ended by itself, 1 if any had to be broken off.
    """
    given = flags(
        context,
        state,
        store,
        listen=listen or None,
        tokens=tokens,
        tls_certificate=tls_certificate,
        tls_key=tls_key,
        tls_client_ca=tls_client_ca,
    )
    import anyio

    from streamer.service import serve as served
    from streamer.settings import load

    chosen = load(file(context, config), **given)

    try:
        status = anyio.run(partial(served, chosen))
    except BaseExceptionGroup as group:
        raise single(group) from None
    raise typer.Exit(status)
