"""`make bench`, or `python -m bench.run`: measures streamer against every peer that is there."""

from __future__ import annotations

import argparse
import datetime
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from bench import machine, namespace, results
from bench.errors import BenchError
from bench.session import Session, session
from bench.table import show
from bench.works import WORKS

HERE = Path(__file__).resolve().parent
FILLED = ("docker", "podman", "local", "state", "temporary", "logs")
"""What the benchmark makes below its work directory, but for results."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0 if every work was measured, 1 if one could not be, 130 after Ctrl-C."""
    chosen = options(arguments)
    progress = Console(stderr=True, highlight=False, markup=False)
    began = time.monotonic()

    def say(text: str) -> None:
        minutes, seconds = divmod(int(time.monotonic() - began), 60)
        progress.print(f"[{minutes:3}:{seconds:02}] {text}", soft_wrap=True)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # SIGINT is ignored in a shell's background
        signal.signal(number, signal.default_int_handler)  # every block is left in order
    work = chosen.work.resolve()
    try:
        namespace.private()
        with session(work, chosen.runs, chosen.quick, say) as bench:
            failed = _measured(bench, chosen)
    except BenchError as error:
        progress.print(str(error))
        return 1
    except KeyboardInterrupt:
        progress.print("stopped; what was measured until then is kept")
        return 130
    if not chosen.keep:
        for name in FILLED:
            shutil.rmtree(work / name, ignore_errors=True)
    return 1 if failed else 0


def _measured(bench: Session, chosen: argparse.Namespace) -> list[str]:
    """Measures the works; shows each, and writes the page, as soon as it is done. Names of those that failed."""
    out = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    place = bench.work / ("quick" if bench.quick else "results")
    target = chosen.output or (bench.work / "RESULTS-quick.md" if bench.quick else HERE / "RESULTS.md")
    bench.warm_only = "left out with --warm" if chosen.warm else namespace.warm_only()
    if bench.warm_only:
        bench.absent.append(f"cold cache: {bench.warm_only}")
    described = machine.describe(bench.work, {engine.name: engine.version for engine in bench.engines})
    failed = []
    done = []
    for name in chosen.only:
        bench.say(f"== {name}")
        try:
            report = WORKS[name](bench)
        except BenchError as error:
            bench.say(f"{name} could not be measured: {error}")
            failed.append(name)
            continue
        report.work, report.commit = name, described["streamer"].removeprefix("commit ")
        report.when = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
        results.keep(place, report)
        done.append(report)
        for section in report.sections:
            show(out, section)
        notes = HERE / "notes.md"
        everything = results.kept(place, list(WORKS))
        page = results.page(everything, described, bench.absent, notes.read_text() if notes.exists() else "")
        target.write_text(page, encoding="utf-8")
    show(out, results.bars(done))
    for each in bench.absent:
        out.print(f"left out: {each}", markup=False)
    bench.say(f"written: {target}")
    return failed


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument(
        "--only", type=_works, default=list(WORKS), metavar="WORK,…", help=f"these works: {', '.join(WORKS)}"
    )
    parser.add_argument("--runs", type=_count, help="measurements of each subject (5; with --quick 2)")
    parser.add_argument(
        "--quick", action="store_true", help="fewer runs and 200,000 files for 1,000,000; does not touch RESULTS.md"
    )
    parser.add_argument("--warm", action="store_true", help="leave the cold page cache out")
    parser.add_argument("--work", type=Path, default=HERE / ".work", help="where stores and trees live (bench/.work)")
    parser.add_argument("--output", type=Path, help="the page (bench/RESULTS.md; with --quick WORK/RESULTS-quick.md)")
    parser.add_argument(
        "--keep", action=argparse.BooleanOptionalAction, default=True, help="what was filled stays for the next run"
    )
    chosen = parser.parse_args(arguments)
    chosen.runs = chosen.runs or (2 if chosen.quick else 5)
    return chosen


def _works(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in WORKS]
    if unknown or not names:
        raise argparse.ArgumentTypeError(f"no such work: {', '.join(unknown)}; there are {', '.join(WORKS)}")
    return [name for name in WORKS if name in names]


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError("at least one run")
    return count


if __name__ == "__main__":
    sys.exit(main())
