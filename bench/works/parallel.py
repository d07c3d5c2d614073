"""1, 10 and 50 clients at once, each with the whole container of 50,000 files."""

from __future__ import annotations

from bench import trees
from bench.measure import Entrant
from bench.peers import Pipeline, Request
from bench.results import Report
from bench.session import Session
from bench.table import timings
from bench.works.container import FILES
from bench.works.entrants import TAR, against, streamers, tars

CLIENTS = (1, 10, 50)


def measure(session: Session) -> Report:
    tree = trees.small(FILES)
    session.fill(tree, session.first)
    report = Report()
    with session.server() as server:
        single = streamers(server, tree, [session.first])
        exported = session.first.export(tree)
        if exported is not None:
            single.append(Entrant(exported, against=against(session.first)))
        single += [each for each in tars(session, tree, against(session.first)) if each.subject.name == TAR]
        told = [
            "time is from the first client's start to the last one's end, MiB those of all clients; memory is that of "
            "the server, or of all the programs together",
            "all of GNU tar's programs share one mount; engines and streamer have one for each export",
            "podman export has no part in it: it holds the container's lock, and several wait for one another",
        ]
        for clients in CLIENTS:
            runs = session.runs if clients == 1 else min(session.runs, 3)
            if session.quick and clients > 10:
                runs = 1
            title = f"{clients} client{'s' * (clients > 1)} at once: container of {tree.about}, warm cache"
            rows = session.rounds(title, [_times(each, clients) for each in single], runs=runs, settle=clients == 1)
            report.rows += rows
            report.sections.append(timings(title, rows, told if clients == CLIENTS[-1] else ()))
    return report


def _times(entrant: Entrant, clients: int) -> Entrant:
    subject = entrant.subject
    assert isinstance(subject, (Request, Pipeline))
    return Entrant(subject.times(clients), entrant.variant, entrant.against)
