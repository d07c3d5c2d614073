"""Tables for the terminal and for Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

from bench.measure import Row
from bench.stats import ratio, spread

NONE = "–"


@dataclass(frozen=True, slots=True)
class Section:
    """One table with its title and what there is to say about it."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    remarks: list[str] = field(default_factory=list)


def timings(title: str, rows: Sequence[Row], remarks: Sequence[str] = (), basis: int | None = None) -> Section:
    """Times, first bytes, sizes, CPU and memory, and for peers the ratios. CPU time is for each GiB that arrived, or
    for `basis` bytes where what arrives is something else (compressed, or a header only)."""
    variants = list(dict.fromkeys(variant for row in rows for variant in row.against))
    heads = ["", "n", "time, s (min–max)", "first byte, ms", "MiB", "CPU s/GiB", "peak MiB", "MiB from disk"]
    heads += [f"streamer ÷ this{f', {variant}' if variant else ''}" for variant in variants]
    by_name = {row.subject: row for row in rows}
    cells, told = [], list(remarks)
    for row in rows:
        if row.failed:
            told.append(f"{row.subject}: left out, {row.failed}")
        if not row.samples:
            cells.append([row.subject, "0"] + [NONE] * (len(heads) - 2))
            continue
        ratios = []
        for variant in variants:
            ours = by_name.get(row.against.get(variant, ""))
            value = ratio(ours.seconds, row.seconds) if ours else None
            ratios.append(NONE if value is None else f"{value:.2f}")
        cells.append([row.subject, str(len(row.samples)), *_figures(row, basis), *ratios])
    return Section(title, heads, cells, told)


def _figures(row: Row, basis: int | None) -> list[str]:
    time = row.spread
    first = [sample.first_byte * 1000 for sample in row.samples if sample.first_byte is not None]
    size = spread([sample.size for sample in row.samples]).median
    cpu = spread([sample.cpu for sample in row.samples]).median
    counted = basis if basis is not None else size
    return [
        f"{time.median:.3f} ({time.low:.3f}–{time.high:.3f})",
        f"{spread(first).median:,.1f}" if first else NONE,
        f"{size / (1 << 20):,.1f}",
        f"{cpu / counted * (1 << 30):.2f}" if counted else NONE,
        f"{max(sample.peak for sample in row.samples) / (1 << 20):,.0f}",
        f"{spread([sample.read for sample in row.samples]).median / (1 << 20):,.0f}",
    ]


def markdown(section: Section, level: int = 3) -> str:
    lines = [f"{'#' * level} {section.title}", ""] if section.title else []
    if section.rows:
        lines += [_line(section.columns), _line(["---"] + ["---:"] * (len(section.columns) - 1))]
        lines += [*map(_line, section.rows), ""]
    if section.remarks:
        lines += [*(f"- {_plain(remark)}" for remark in section.remarks)]
    return "\n".join(lines) + "\n"


def show(console: Console, section: Section) -> None:
    table = Table(title=section.title, title_justify="left", show_lines=False)
    for number, column in enumerate(section.columns):
        table.add_column(column, justify="right" if number else "left", overflow="fold")
    for row in section.rows:
        table.add_row(*(cell.replace("**", "") for cell in row))
    console.print(table if section.rows else section.title)
    for remark in section.remarks:
        console.print(f"  {remark}", markup=False, highlight=False)
    console.print()


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_plain(cell).replace("|", "\\|") for cell in cells) + " |"


def _plain(text: str) -> str:
    return " ".join(text.split())
