"""What was measured, kept as JSON for each work, and all of it as RESULTS.md."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.bars import HEADINGS, Figure, judged
from bench.measure import Row
from bench.table import Section, markdown

ABOUT = """\
Made by `make bench`; do not edit: prose belongs to `notes.md`, which is appended. Every time is a median, with the
fastest and the slowest run; subjects of a table were measured in turn (A B C A B C …). A ratio is streamer's median
divided by the peer's: below 1 streamer is faster. streamer is a process of its own and its client curl, over HTTP
on loopback, writing to `/dev/null`; time is that of the whole curl process. A peer that writes to a pipe is timed
from its start to the end of the pipe. Cold: dirty pages written back, page cache, directory entries and inodes
dropped before each single run, the programs themselves read again. CPU and memory are the server's (dockerd's with
its containerd, nginx's with its workers) or the piping programs', not the client's; peak memory is VmHWM, set back
before each run. What came from disk is counted for the whole machine: a kernel may give up cached pages although
memory is free, and then what is called warm is not."""


@dataclass(slots=True)
class Report:
    """What one work came to."""

    sections: list[Section] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    """Every single measurement behind the tables."""
    work: str = ""
    commit: str = ""
    when: str = ""


def keep(place: Path, report: Report) -> None:
    place.mkdir(parents=True, exist_ok=True)
    (place / f"{report.work}.json").write_text(json.dumps(asdict(report), indent=1))


def kept(place: Path, works: Sequence[str]) -> list[Report]:
    """The last report of each work, in the order of `works`."""
    files = [place / f"{work}.json" for work in works]
    return [_report(json.loads(file.read_text())) for file in files if file.exists()]


def bars(reports: Sequence[Report]) -> Section:
    figures = [figure for report in reports for figure in report.figures]
    return Section("What has to be reached", HEADINGS, judged(figures))


def page(reports: Sequence[Report], machine: Mapping[str, str], absent: Sequence[str], notes: str) -> str:
    """RESULTS.md; `notes` is what people have to say about the figures."""
    parts = [
        "# Side by side with the peers\n",
        f"{ABOUT}\n",
        markdown(bars(reports), 2),
        "## The machine\n",
        "| | |\n|---|---|\n" + "".join(f"| {name} | {value} |\n" for name, value in machine.items()),
    ]
    if absent:
        parts.append("Left out: " + "; ".join(absent) + ".\n")
    parts.append("## What was measured\n")
    for report in reports:
        parts += [markdown(section) for section in report.sections]
        parts.append(f"Measured {report.when} at commit {report.commit}.\n")
    if notes.strip():
        parts.append(notes.strip() + "\n")
    return "\n".join(parts)


def _report(document: dict[str, Any]) -> Report:
    document["sections"] = [Section(**section) for section in document["sections"]]
    document["figures"] = [Figure(**figure) for figure in document["figures"]]
    document["rows"] = []  # for other programs
    return Report(**document)
