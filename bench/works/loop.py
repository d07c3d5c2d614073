"""How long a tiny request waits while exports run: what else the event loop does at a time."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from bench import client, trees
from bench.bars import Figure
from bench.errors import BenchError
from bench.machine import ROOT
from bench.results import Report
from bench.server import Streamer
from bench.session import Session
from bench.table import Section
from bench.works.container import FILES

INTERVAL = 0.005
HEADS = [
    "while these run",
    "requests",
    "median, ms",
    "p99, ms",
    "max, ms",
    "of these, the probe woke up late: p99, ms",
    "max, ms",
]


def measure(session: Session) -> Report:
    small, big, layers, wide = trees.small(FILES), trees.big(), trees.layers(), trees.wide(200_000)
    for tree in (small, big, layers, wide):
        session.fill(tree, session.first)
    report = Report()
    section = Section("Delay of /healthz while exports run", HEADS, [], [])
    seconds = 3.0 if session.quick else 15.0
    with session.server() as server:
        store = {"store": session.first.name}
        cases: list[tuple[str, list[list[str]]]] = [("nothing", [])]
        small_default = server.container(small.name, **store)
        cases.append(("4 × the container of 50,000 files", [[small_default]] * 4))
        cases.append(("4 × the same, length=unknown", [[server.container(small.name, length="unknown", **store)]] * 4))
        cases.append(("4 × 4 × 1 GiB", [[server.container(big.name, **store)]] * 4))
        cases.append(("4 × the image of 20 layers", [[server.image(layers.reference, **store)]] * 4))
        cases += [
            (f"2 × the container, {name}", [[server.container(small.name, compression=name, **store)]] * 2)
            for name in ("gzip", "zstd")
        ]
        cases.append(("2 × HEAD of the container", [["--head", small_default]] * 2))
        cases.append(("2 × 200,000 names in a directory", [[server.container(wide.name, **store)]] * 2))
        worst = 0.0
        for name, arguments in cases:
            said = _probed(server, arguments, seconds)
            delay, late = said["delay"], said["late"]
            session.say(f"  {name}: p99 {delay['p99']:.1f} ms, max {delay['max']:.1f} ms")
            figures = [
                f"{value:.1f}" for value in (delay["median"], delay["p99"], delay["max"], late["p99"], late["max"])
            ]
            section.rows.append([name, f"{delay['count']:,}", *figures])
            worst = max(worst, delay["p99"])
    section.remarks.append(
        f"A process of its own asks for /healthz every {INTERVAL * 1000:.0f} ms over one connection. Requests are due "
        "at fixed times and count from then, also when an answer before them took longer. It shares the cores with the "
        "server and its clients, so a delay is the most that the event loop can have been blocked, not the least"
    )
    report.sections.append(section)
    report.figures.append(Figure("loop", worst))
    return report


def _probed(server: Streamer, arguments: Sequence[Sequence[str]], seconds: float) -> Any:
    """What the probe says after that time, in which curls ask again and again."""
    command = [sys.executable, "-m", "bench.probe", str(server.port), "/healthz", str(INTERVAL)]
    with ExitStack() as stack:
        probe = stack.enter_context(
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)
        )
        stack.callback(probe.kill)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if not arguments:
                time.sleep(seconds)
            urls = [[*options, server.url(path)] for *options, path in arguments]
            with client.transfers(urls) as running:
                for process in running:
                    try:
                        process.wait(max(0.1, deadline - time.monotonic()))
                    except subprocess.TimeoutExpired:
                        break
                    client.finished(process)
        said, complaint = probe.communicate(b"\n")
        if probe.returncode != 0:
            raise BenchError(f"the probe ended: {complaint.decode(errors='replace').strip()[-500:]}")
    client.quiet(server.port)
    return json.loads(said)
