"""Time to the first byte, on trees that are large, deep or wide."""

from __future__ import annotations

from bench import client, trees
from bench.bars import Figure
from bench.measure import Row, Sample
from bench.results import Report
from bench.server import Streamer
from bench.session import Session
from bench.stats import Spread, spread
from bench.table import NONE, Section
from bench.trees import Tree
from bench.works.container import FILES
from bench.works.entrants import DEFAULT, PACK, TAR, UNKNOWN, pipeline

NAMES = 200_000
HEADS = ["tree", "asked", "n", "first byte of the header, ms", "first byte of the body, ms", "curl's starttransfer, ms"]


def measure(session: Session) -> Report:
    chosen = [trees.small(FILES), trees.big(), trees.wide(NAMES), trees.flat(NAMES)]
    for tree in chosen:
        session.fill(tree, session.first)
    # There only if the work of that name has filled it: it takes minutes.
    chosen += [tree for tree in (trees.small(1_000_000),) if session.first.has(tree)]
    report = Report()
    cells, bodies = [], {}
    with session.server() as server:
        for tree in chosen:
            for variant in (UNKNOWN, DEFAULT):
                if variant == DEFAULT and tree.files > NAMES:
                    continue  # the metadata pass of a million files: in the table of that work
                header, body, told = _tries(session, server, tree, variant, report)
                cells.append([tree.about, variant, str(body.count), *map(_milliseconds, (header, body, told))])
                bodies[tree.name, variant] = body.median
                session.say(f"  {tree.about}, {variant}: {body.median * 1000:.1f} ms to the body")
            tar = pipeline(session, tree, TAR, PACK)
            starts = spread([tar.first_byte() for _ in range(session.runs)])
            cells.append([tree.about, TAR, str(starts.count), NONE, _milliseconds(starts), NONE])
    slowest = max(value for (_, variant), value in bodies.items() if variant == UNKNOWN)
    report.figures.append(Figure("first-byte", slowest * 1000))
    remarks = [
        "the body's first byte is the bar's: a header alone would prove nothing. Each try is a connection of its own "
        "that is closed after that byte; the next one begins when the server has released what it held",
    ]
    report.sections.append(Section("First byte, warm cache", HEADS, cells, remarks))
    return report


def _tries(
    session: Session, server: Streamer, tree: Tree, variant: str, report: Report
) -> tuple[Spread, Spread, Spread]:
    query = {"store": session.first.name} | ({"length": "unknown"} if variant == UNKNOWN else {})
    path = server.container(tree.name, **query)
    headers, bodies, told = [], [], []
    count = max(10, session.runs * 4) if variant == UNKNOWN else session.runs
    for turn in range(count + 1):
        header, body = client.first_byte(server.port, path)
        client.quiet(server.port)
        if turn:  # the first one warms up
            headers.append(header)
            bodies.append(body)
    for _ in range(3):
        told.append(client.starttransfer(server.url(path)))
        client.quiet(server.port)
    row = Row(f"{tree.name}, {variant}")
    row.samples += [Sample(body, header, 1, 0.0, 0) for header, body in zip(headers, bodies, strict=True)]
    report.rows.append(row)
    return spread(headers), spread(bodies), spread(told)


def _milliseconds(value: Spread) -> str:
    return f"{value.median * 1000:.1f} ({value.low * 1000:.1f}–{value.high * 1000:.1f})"
