"""`streamer token new`: a fresh token, shown once, and the line that lets it in."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import Annotated, Literal

import typer

from streamer.cli.complain import say
from streamer.cli.emit import emit
from streamer.errors import InvalidRequest


def token(
    action: Annotated[Literal["new"], typer.Argument(metavar="new", help="The only thing to do.", show_default=False)],
    name: Annotated[str, typer.Argument(metavar="NAME", help="Who will use it; shown in logs.", show_default=False)],
    kinds: Annotated[
        str | None,
        typer.Option(
            metavar="KIND,…",
            help="What it allows: layer, diff, container, image, rootfs, changes, list, import, jobs, metrics, or * "
            "for all. Without it: all exports, and list.",
            show_default=False,
        ),
    ] = None,
    stores: Annotated[
        str | None, typer.Option(metavar="STORE,…", help="Only these stores. Without it: all.", show_default=False)
    ] = None,
    names: Annotated[
        str | None,
        typer.Option(
            metavar="PATTERN,…",
            help="Only images and containers whose names match one of these (* ? […]). Without it: all.",
            show_default=False,
        ),
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option(
            metavar="DATE", help="Until when, in UTC: 2027-12-31 or 2027-12-31T12:00:00Z.", show_default=False
        ),
    ] = None,
) -> None:
    """Make a token, and the line for the file of tokens that lets it in.

    On a terminal both are shown; otherwise the line goes to standard output and the token to standard
    error. The token itself is kept nowhere: whoever loses it needs a new one.
    """
    from streamer.access.scope import READING, Kind, Scope
    from streamer.access.token import issued

    allowed = frozenset(READING)
    if kinds is not None:
        wanted = _items(kinds)
        unknown = [each for each in wanted if each != "*" and each not in list(Kind)]
        if unknown:
            raise InvalidRequest(f"--kinds: there is no {unknown[0]!r}, but {', '.join(Kind)}", parameter="kinds")
        allowed = frozenset(Kind) if "*" in wanted else frozenset(map(Kind, wanted))
    scope = Scope(
        allowed,
        None if stores is None else frozenset(_items(stores)),
        None if names is None else tuple(_items(names)),
    )
    secret, line = issued(name, scope, None if expires is None else _moment(expires))
    if sys.stdout.isatty():
        emit(f"token, shown only now:\n{secret}\n\nline for the file of tokens (STREAMER_TOKENS):\n{line}")
    else:
        emit(line)
        say(f"token {name}, shown only now: {secret}")


def _items(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidRequest(f"--expires={text!r} is neither a date nor a time", parameter="expires") from None
    moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    if moment <= datetime.now(UTC):
        raise InvalidRequest(f"--expires={text!r} is past", parameter="expires")
    return moment
