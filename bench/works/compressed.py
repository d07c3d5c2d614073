"""The container of 50,000 files, compressed on the way."""

from __future__ import annotations

import shutil

from bench import trees
from bench.measure import Entrant
from bench.results import Report
from bench.session import Session
from bench.table import timings
from bench.works.container import FILES
from bench.works.entrants import PACK, figures, pipeline


def measure(session: Session) -> Report:
    tree = trees.small(FILES)
    session.fill(tree, session.first)
    report = Report()
    with session.server() as server:
        base = {"store": session.first.name}
        whole = server.request("whole", server.container(tree.name, **base)).run().size
        entrants = [
            Entrant(server.request(f"streamer, {name}", server.container(tree.name, compression=name, **base)), name)
            for name in ("gzip", "zstd")
        ]
        gzip, zstd = {"gzip": "streamer, gzip"}, {"zstd": "streamer, zstd"}
        told = []
        entrants.append(
            Entrant(pipeline(session, tree, "GNU tar -z", ("tar", "-C", "{}", "-czf", "-", ".")), against=gzip)
        )
        if shutil.which("pigz"):
            entrants.append(Entrant(pipeline(session, tree, "GNU tar to pigz", PACK, ("pigz",)), against=zstd | gzip))
        else:
            told.append("pigz: left out, not installed")
        if shutil.which("zstd"):
            packed = pipeline(session, tree, "GNU tar to zstd -T0", PACK, ("zstd", "-q", "-T0", "-c"))
            entrants.append(Entrant(packed, against=zstd))
        title = f"Compressed: container of {tree.about}, warm cache"
        rows = session.rounds(title, entrants)
        told.append(
            "every program with its own default level; CPU time is for each GiB of the archive before compression"
        )
        report.rows += rows
        report.sections.append(timings(title, rows, told, basis=whole))
        report.figures += [each for each in figures("gzip", rows, "GNU tar -z") if each.variant == "gzip"]
        report.figures += [each for each in figures("zstd", rows, "GNU tar to pigz") if each.variant == "zstd"]
    return report
