"""A saved image of 20 layers, as the engines save it."""

from __future__ import annotations

from bench import trees
from bench.measure import Entrant
from bench.results import Report
from bench.session import Session
from bench.table import timings
from bench.works.entrants import figures


def measure(session: Session) -> Report:
    tree = trees.layers()
    session.fill(tree)
    report = Report()
    with session.server() as server:
        entrants = []
        for engine in session.engines:
            path = server.image(tree.reference, store=engine.name)
            entrants.append(Entrant(server.request(f"streamer, {engine.name}'s store", path), ""))
        for engine in session.engines:
            subject = engine.export(tree)
            if subject is not None:
                entrants.append(Entrant(subject, against={"": f"streamer, {engine.name}'s store"}))
        for cold in (False, True) if session.warm_only is None else (False,):
            title = f"Saved image: {tree.about}, {'cold' if cold else 'warm'} cache"
            rows = session.rounds(title, entrants, cold=cold)
            report.rows += rows
            report.sections.append(timings(title, rows))
            if not cold:
                report.figures += figures("image-docker", rows, "docker save, API with curl")
    return report
