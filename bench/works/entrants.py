"""Who takes part: streamer asked in its ways, and plain tar on the same tree."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from bench.bars import Figure
from bench.engines import Engine
from bench.measure import Entrant, Row
from bench.peers import Pipeline
from bench.server import Streamer
from bench.session import Session
from bench.stats import ratio
from bench.trees import Tree

DEFAULT, UNKNOWN = "default", "length=unknown"
FRESH = (
    "GNU tar and bsdtar read the container's own layers through an overlay that is mounted read-only anew for each "
    "run, outside of the measured time: engines and streamer mount one anew for each export as well, so that everybody "
    "begins with the same caches"
)


def streamers(server: Streamer, tree: Tree, engines: Iterable[Engine], **query: str) -> list[Entrant]:
    """The container in each engine's store, as it is asked for by default and with `length=unknown`."""
    found = []
    for engine in engines:
        for variant in (DEFAULT, UNKNOWN):
            chosen = {**query, "length": "unknown"} if variant == UNKNOWN else query
            path = server.container(tree.name, store=engine.name, **chosen)
            found.append(Entrant(server.request(ours(engine, variant), path), variant))
    return found


def ours(engine: Engine, variant: str) -> str:
    """The name of the row."""
    return f"streamer, {engine.name}'s store, {variant}"


def against(engine: Engine) -> dict[str, str]:
    """For peers that read what that engine stores."""
    return {variant: ours(engine, variant) for variant in (DEFAULT, UNKNOWN)}


def exported(session: Session, tree: Tree) -> list[Entrant]:
    """What the engines make of it themselves."""
    subjects = [(engine, engine.export(tree)) for engine in session.engines]
    return [Entrant(subject, against=against(engine)) for engine, subject in subjects if subject is not None]


TAR = "GNU tar to a pipe"
PACK = ("tar", "-C", "{}", "-cf", "-", ".")


def tars(
    session: Session, tree: Tree, compared: dict[str, str], *, plain: bool = True, standing: Path | None = None
) -> list[Entrant]:
    """GNU tar and bsdtar on the first engine's container and, with `plain`, GNU tar on the layer's directory itself,
    and on an overlay that is mounted at `standing` all the time."""
    engine = session.first
    found = [Entrant(pipeline(session, tree, TAR, PACK), against=compared)]
    if shutil.which("bsdtar"):
        command = ("bsdtar", "-C", "{}", "-cf", "-", ".")
        found.append(Entrant(pipeline(session, tree, "bsdtar to a pipe", command), against=compared))
    if plain and (directory := engine.plain(tree)) is not None:
        # What it costs that the overlay is new, and that there is one: engines and streamer pay for both.
        if standing is not None:
            command = ("tar", "-C", str(standing), "-cf", "-", ".")
            name = "GNU tar to a pipe, overlay mounted all the time"
            found.append(Entrant(Pipeline(name, (command,)), against=compared))
        command = ("tar", "-C", str(directory), "-cf", "-", ".")
        name = "GNU tar to a pipe, the layer's directory without overlay"
        found.append(Entrant(Pipeline(name, (command,)), against=compared))
    return found


def pipeline(session: Session, tree: Tree, name: str, *commands: Sequence[str]) -> Pipeline:
    """Programs on the container's file system; `{}` in their arguments is where it is mounted."""
    engine = session.first
    with engine.merged(tree) as place:  # always the same place
        made = tuple(tuple(part.replace("{}", str(place)) for part in command) for command in commands)
    return Pipeline(name, made, around=lambda: engine.merged(tree))


def figures(bar: str, rows: Sequence[Row], peer: str) -> list[Figure]:
    """The ratios to one peer, for each way in which streamer was asked."""
    by_name = {row.subject: row for row in rows}
    found = []
    if peer in by_name:
        for variant, name in by_name[peer].against.items():
            value = ratio(by_name[name].seconds, by_name[peer].seconds) if name in by_name else None
            if value is not None:
                found.append(Figure(bar, value, variant))
    return found
