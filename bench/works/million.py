"""1,000,000 small files: memory, and the rate per file compared with 50,000."""

from __future__ import annotations

from collections.abc import Sequence

from bench import trees
from bench.bars import Figure
from bench.measure import Row
from bench.results import Report
from bench.session import Session
from bench.table import Section, timings
from bench.works.container import FILES
from bench.works.entrants import TAR, against, streamers, tars

MANY, SOME = 1_000_000, 200_000
MiB = 1 << 20


def measure(session: Session) -> Report:
    sizes = (SOME, FILES) if session.quick else (MANY, SOME, FILES)
    sorts = [trees.small(files) for files in sizes]
    for tree in sorts:
        session.fill(tree, session.first)
    report = Report()
    found: list[list[Row]] = []
    # The most first: nothing but them has used memory of this server so far.
    with session.server() as server:
        for tree in sorts:
            entrants = streamers(server, tree, [session.first])
            entrants += [each for each in tars(session, tree, against(session.first)) if each.subject.name == TAR]
            title = f"Container of {tree.about}, warm cache"
            rows = session.rounds(title, entrants, runs=min(session.runs, 3) if tree.files > SOME else session.runs)
            found.append(rows)
            report.rows += rows
            report.sections.append(timings(title, rows))
    report.sections.append(_rates(report, found, sizes))
    return report


def _rates(report: Report, found: Sequence[Sequence[Row]], sizes: Sequence[int]) -> Section:
    """The table of times per file; the figures of the bars go into the report."""
    most, least = sizes[0], sizes[-1]
    heads = ["time per file, µs", *(f"{files:,} files" for files in sizes), f"{most:,} ÷ {least:,}"]
    section = Section("Time per file", heads, [], [])
    for rows in zip(*found, strict=True):
        if not all(row.samples for row in rows):
            continue
        times = [row.spread.median / files * 1e6 for row, files in zip(rows, sizes, strict=True)]
        section.rows.append([rows[0].subject, *(f"{time:.1f}" for time in times), f"{times[0] / times[-1]:.2f}"])
        if rows[0].variant:
            variant = rows[0].variant if most == MANY else f"{rows[0].variant}, {most:,} files only"
            report.figures.append(Figure("million-rate", times[0] / times[-1], variant))
            peak = max(sample.peak for sample in rows[0].samples)
            report.figures.append(Figure("million-memory", peak / MiB, variant))
    disk = max((sample.read for row in found[0] for sample in row.samples), default=0)
    if disk > 64 * MiB:
        section.remarks.append(
            f"The cache was not warm: with {most:,} files up to {disk / MiB:,.0f} MiB came from the disk again in a "
            "run. GNU tar's own row shows what that alone does to the rate"
        )
    return section
