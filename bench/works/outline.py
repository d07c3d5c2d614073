"""The exact length of a container of 50,000 files, by HEAD: the metadata pass alone."""

from __future__ import annotations

from bench import trees
from bench.bars import Figure
from bench.client import status
from bench.measure import Entrant
from bench.results import Report
from bench.session import Session
from bench.stats import ratio
from bench.table import Section, timings
from bench.works.container import FILES
from bench.works.entrants import DEFAULT, FRESH, TAR, tars


def measure(session: Session) -> Report:
    tree = trees.small(FILES)
    session.fill(tree, session.first)
    report = Report()
    with session.server() as server:
        path = server.container(tree.name, store=session.first.name)
        code, headers, _ = status(server.port, path, "HEAD")
        if code != 200 or "content-length" not in headers:
            told = f"HEAD was answered with status {code} and no Content-Length: there is no outline to measure"
            session.say(f"Outline: {told}")
            report.sections.append(Section("Outline (HEAD)", [], [], [told]))
            return report
        entrants = [Entrant(server.request("streamer, HEAD", path, "--head"), DEFAULT)]
        entrants += tars(session, tree, {DEFAULT: "streamer, HEAD"})
        for cold in (False, True) if session.warm_only is None else (False,):
            title = f"Outline (HEAD) of {tree.about}, {'cold' if cold else 'warm'} cache"
            rows = session.rounds(title, entrants, cold=cold)
            report.rows += rows
            report.sections.append(timings(title, rows, [FRESH], basis=int(headers["content-length"])))
            if not cold:
                peer = next(row for row in rows if row.subject == TAR)
                value = ratio(rows[0].seconds, peer.seconds)
                report.figures += [Figure("outline", value)] if value is not None else []
    return report
