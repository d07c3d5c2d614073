"""`streamer copy` and `streamer add`: files onto an image, as COPY and ADD of a Dockerfile would put them there."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from streamer.cli.emit import emit
from streamer.cli.options import Json, State, Stores
from streamer.cli.running import work

if TYPE_CHECKING:
    from streamer.build.copying import Copied
    from streamer.service import Service

_Image: TypeAlias = Annotated[
    str,
    typer.Argument(
        metavar="IMAGE", help="What is copied onto: name, ID, or a unique prefix of an ID; `scratch` for nothing."
    ),
]
_Paths: TypeAlias = Annotated[
    list[str],
    typer.Argument(
        metavar="SRC... DEST",
        help="Files and directories of the context, wildcards as in a Dockerfile; and the path in the image, which is "
        "a directory if it ends in a slash. One that does not begin with a slash is below the image's working "
        "directory.",
        show_default=False,
    ),
]
_Context: TypeAlias = Annotated[
    str,
    typer.Option("--context", metavar="DIR", help="Where the files are, without what its .dockerignore leaves out."),
]
_Chown: TypeAlias = Annotated[
    str,
    typer.Option(
        metavar="USER[:GROUP]", help="Whose they become: names that the image knows, or numbers.", show_default=False
    ),
]
_Chmod: TypeAlias = Annotated[
    str, typer.Option(metavar="MODE", help="The mode of all of them, octal.", show_default=False)
]
_Tag: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--tag", "-t", metavar="REF", help="A name for the new image; may be repeated.", show_default=False),
]
_Cache: TypeAlias = Annotated[
    bool, typer.Option("--cache/--no-cache", help="Whether an image that was made of the very same before will do.")
]


def _command(unpack: bool, description: str) -> Callable[..., None]:
    def command(
        context: typer.Context,
        image: _Image,
        paths: _Paths,
        directory: _Context = ".",
        chown: _Chown = "",
        chmod: _Chmod = "",
        tag: _Tag = None,
        cache: _Cache = True,
        as_json: Json = False,
        state: State = None,
        store: Stores = None,
    ) -> None:
        async def made(service: Service) -> Copied:
            from streamer.build.copying import Order, instruction
            from streamer.build.order import names
            from streamer.cli.building import copied

            *sources, destination = paths
            given = instruction(unpack, sources, destination, chown=chown, chmod=chmod)
            return await copied(service, Order(image, given, names(tag or ()), cache), directory)

        _print(work(context, state, store, made, create=image == "scratch"), as_json)

    command.__doc__ = description
    return command


def _print(made: Copied, as_json: bool) -> None:
    if not as_json:
        emit(made.image.id)
        return
    from streamer.build.copying import value

    emit(json.dumps(value(made), indent=2))


copy = _command(
    False,
    """Make a new image with files on top of another one, as COPY does. Prints its ID.

    No container, mount or root is needed: the layer is made while it is stored.
    """,
)
add = _command(
    True, "As copy, but archives of the context are unpacked, in any compression, and URLs are fetched, as ADD does."
)
