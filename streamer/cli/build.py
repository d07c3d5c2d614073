"""`streamer build`: an image from a Dockerfile without RUN."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from streamer.cli.emit import emit
from streamer.cli.options import CONTEXT, State, Stores
from streamer.cli.running import work
from streamer.errors import InvalidRequest

if TYPE_CHECKING:
    from streamer.service import Service

_CONTAINERS = "Containers"


def build(
    context: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            metavar="CONTEXT",
            help=CONTEXT,
            show_default=False,
        ),
    ],
    tag: Annotated[
        list[str] | None,
        typer.Option("--tag", "-t", metavar="REF", help="A name for the image; may be repeated.", show_default=False),
    ] = None,
    file: Annotated[
        str | None,
        typer.Option(
            "--file",
            "-f",
            metavar="FILE|-",
            help="The Dockerfile, if it is not the context's own; it may lie elsewhere. Of an archive, its path in it.",
            show_default=False,
        ),
    ] = None,
    build_arg: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="The value of an ARG; may be repeated. Of a NAME alone, the value is that of the environment.",
            show_default=False,
        ),
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="A label of the image; may be repeated.", show_default=False),
    ] = None,
    target: Annotated[str, typer.Option(metavar="STAGE", help="The stage to end with.", show_default=False)] = "",
    cache: Annotated[
        bool, typer.Option("--cache/--no-cache", help="Whether images of earlier builds may be used.")
    ] = True,
    rm: Annotated[
        bool,
        typer.Option(
            help="No container of a step is left behind. No step needs one here; --no-rm makes one from the image of "
            "each, to look into.",
            rich_help_panel=_CONTAINERS,
        ),
    ] = True,
    force_rm: Annotated[
        bool,
        typer.Option(
            help="None is left behind by a step that fails either; otherwise there is then one from the image of the "
            "step before.",
            rich_help_panel=_CONTAINERS,
        ),
    ] = False,
    hashing: Annotated[
        Literal["docker-24", "docker-23"],
        typer.Option(
            help="Which Docker's way to write hashes of copied files into the image's history: from 24, or up to 23."
        ),
    ] = "docker-24",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing of the steps.")] = False,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="The steps, and what became of them, as lines of JSON on standard output, as Docker's API has them.",
        ),
    ] = False,
    state: State = None,
    store: Stores = None,
) -> None:
    """Build an image from a Dockerfile without RUN.

    RUN is refused before anything is made. Nothing is run, and no root, mount or container is needed: layers are made
    while they are stored. Tells of the steps on standard error and prints the image's ID. Without a name for it, images
    of steps are found again by later builds until `streamer prune`.
    """
    if quiet and as_json:
        raise InvalidRequest("--quiet and --json cannot go together: JSON is the steps", parameter="quiet")

    async def command(service: Service) -> str:
        from streamer.build.builder import Options
        from streamer.build.order import Order, names, pairs
        from streamer.cli.building import built
        from streamer.context.tree import Hashing
        from streamer.settings import environment

        order = Order(
            names(tag or ()),
            pairs(build_arg or (), "--build-arg", environment()),
            pairs(label or (), "--label"),
            target,
            Options(cache, keep=not rm, keep_failed=not force_rm),
        )
        return await built(
            service, order, source, file, Hashing(hashing), "quiet" if quiet else "json" if as_json else ""
        )

    image = work(context, state, store, command, create=True)
    if not as_json:
        emit(image)
