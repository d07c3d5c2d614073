"""Large files, against nginx that serves the very same files with sendfile."""

from __future__ import annotations

from contextlib import ExitStack

from bench import trees
from bench.measure import Entrant
from bench.results import Report
from bench.server import NGINX_MISSING, nginx, nginx_version
from bench.session import Session
from bench.table import timings
from bench.works.entrants import TAR, against, figures, streamers, tars

COUNT = 4
NGINX = "nginx with sendfile, curl"


def measure(session: Session) -> Report:
    tree = trees.big(COUNT)
    session.fill(tree, session.first)
    report = Report()
    with ExitStack() as stack:
        server = stack.enter_context(session.server())
        entrants = streamers(server, tree, [session.first])
        compared = against(session.first)
        told: list[str] = []
        directory = session.first.plain(tree)
        if nginx_version() is None or directory is None:
            told.append(f"nginx: left out, {NGINX_MISSING if directory else 'no plain directory to serve'}")
        else:
            peer = stack.enter_context(nginx(directory, session.work / "logs" / "nginx.log"))
            request = peer.request(NGINX, [f"big-{number}" for number in range(COUNT)])
            entrants.append(Entrant(request, against=compared))
            told.append(
                "nginx serves the files where they lie in the engine's store, the same pages of the page cache that "
                "streamer reads: four requests of one curl over one connection"
            )
        # Beside the bar: what the same bytes take without HTTP.
        entrants += tars(session, tree, compared, plain=False)[:1]
        for cold in (False, True) if session.warm_only is None else (False,):
            title = f"Container of {tree.about}, {'cold' if cold else 'warm'} cache"
            rows = session.rounds(title, entrants, cold=cold)
            report.rows += rows
            report.sections.append(timings(title, rows, told))
            if not cold:
                report.figures += figures("big-nginx", rows, NGINX)
                ahead = next((row for row in rows if row.subject == TAR and row.samples), None)
                if ahead is not None:
                    session.say(f"  GNU tar moved {ahead.samples[0].size / ahead.spread.median / (1 << 20):,.0f} MiB/s")
    return report
