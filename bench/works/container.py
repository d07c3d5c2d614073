"""A container of 50,000 small files, warm and cold."""

from __future__ import annotations

from contextlib import ExitStack

from bench import trees
from bench.bars import Figure
from bench.measure import Row
from bench.results import Report
from bench.session import Session
from bench.table import timings
from bench.works.entrants import FRESH, TAR, against, exported, figures, streamers, tars

FILES = 50_000


def measure(session: Session) -> Report:
    tree = trees.small(FILES)
    session.fill(tree)
    report = Report()
    with ExitStack() as stack:
        server = stack.enter_context(session.server())
        layered = session.first.plain(tree) is not None
        standing = stack.enter_context(session.first.merged(tree, "standing")) if layered else None
        entrants = streamers(server, tree, session.engines)
        entrants += exported(session, tree)
        entrants += tars(session, tree, against(session.first), standing=standing)
        told = [FRESH]
        title = f"Container of {tree.about}"
        rows = session.rounds(f"{title}, warm", entrants)
        report.rows += rows
        report.sections.append(timings(f"{title}, warm cache", rows, told))
        report.figures += _warm(rows)
        if session.warm_only is None:
            rows = session.rounds(f"{title}, cold", entrants, cold=True)
            report.rows += rows
            report.sections.append(timings(f"{title}, cold cache", rows, told))
            report.figures += figures("container-cold-tar", rows, TAR)
    return report


def _warm(rows: list[Row]) -> list[Figure]:
    return [
        *figures("container-docker", rows, "docker export, API with curl"),
        *figures("container-podman", rows, "podman export to a pipe"),
        *figures("container-tar", rows, TAR),
    ]
