"""50 exports at once, 20 of them to clients that read nothing."""

from __future__ import annotations

import time
from contextlib import ExitStack

from bench import client, trees
from bench.bars import Figure
from bench.errors import BenchError
from bench.processes import Meter
from bench.results import Report
from bench.server import Streamer
from bench.session import Session
from bench.table import Section
from bench.works.container import FILES
from bench.works.entrants import DEFAULT, UNKNOWN

READING, STALLED = 30, 20
HEADS = ["asked", "clients that read", "clients that stall", "time, s", "peak MiB", "CPU s", "idle before, MiB"]
MiB = 1 << 20


def measure(session: Session) -> Report:
    tree = trees.small(FILES)
    session.fill(tree, session.first)
    report = Report()
    section = Section(f"{READING + STALLED} exports at once: container of {tree.about}, warm cache", HEADS, [], [])
    for variant in (DEFAULT, UNKNOWN):
        # A server of its own for each: memory that was once used stays with a process. Stalled clients are not to be
        # broken off while the others still read.
        with session.server(STREAMER_STALL_TIMEOUT="3600") as server:
            query = {"store": session.first.name} | ({"length": "unknown"} if variant == UNKNOWN else {})
            seconds, cpu, peak, before = _crowd(server, server.container(tree.name, **query))
        session.say(f"  {variant}: {peak / MiB:.0f} MiB after {seconds:.0f} s")
        cells = [f"{seconds:.1f}", f"{peak / MiB:.0f}", f"{cpu:.1f}", f"{before / MiB:.0f}"]
        section.rows.append([variant, str(READING), str(STALLED), *cells])
        report.figures.append(Figure("stalled-memory", peak / MiB, variant))
    section.remarks.append(
        "peak is VmHWM of a server that was started for this, and of its children if it has any, added up; the stalled "
        "clients ask first, have a receive buffer of 4 KiB, and are still connected when the last of the others ends"
    )
    report.sections.append(section)
    return report


def _crowd(server: Streamer, path: str) -> tuple[float, float, int, int]:
    """Seconds, CPU seconds, peak bytes, and bytes before the first export."""
    meter = Meter(server.pid)
    before = meter.read()[1]
    with ExitStack() as stack:
        stack.enter_context(client.stalled(server.port, path, STALLED))
        start = time.perf_counter()
        commands = [[server.url(path)] for _ in range(READING)]
        for process in stack.enter_context(client.transfers(commands)):
            client.finished(process)
        seconds = time.perf_counter() - start
        held = client.gauge(server.port, "streamer_open_exports")
        cpu, peak = meter.read()
    if held is not None and held < STALLED:
        raise BenchError(f"only {held:.0f} of {STALLED} stalled clients were still served at the end")
    client.quiet(server.port)
    return seconds, cpu, peak, before
