"""Data for people and programs: JSON when asked for, an aligned table on a terminal, tab-separated lines otherwise."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from streamer.cli.complain import printable
from streamer.cli.emit import emit

Record: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Column:
    """`plain` is the whole value for programs; `short`, where given, what fits a terminal. `number` aligns right."""

    title: str
    plain: Callable[[Record], object]
    short: Callable[[Record], str] | None = None
    number: bool = False


def show(records: Sequence[Record], columns: Sequence[Column], *, as_json: bool) -> None:
    """Everything at once: `records` as they are in JSON, the columns of each otherwise."""
    if as_json:
        emit(json.dumps(list(records), indent=2, ensure_ascii=False))
    elif sys.stdout.isatty():
        _table(records, columns)
    else:
        for record in records:
            emit("\t".join(_cell(column.plain(record)) for column in columns))


def _cell(value: object) -> str:
    return "-" if value is None else printable(str(value))


def _table(records: Sequence[Record], columns: Sequence[Column]) -> None:
    """As wide as it is: a terminal breaks long lines itself, and a name or ID that it broke can still be copied."""
    from rich.cells import cell_len
    from rich.console import Console
    from rich.text import Text

    rows = [[column.title for column in columns]]
    rows += [[_cell((column.short or column.plain)(record)) for column in columns] for record in records]
    widths = [max(map(cell_len, cells)) for cells in zip(*rows, strict=True)]
    console = Console()
    for number, row in enumerate(rows):
        blanks = [" " * (width - cell_len(cell)) for width, cell in zip(widths, row, strict=True)]
        line = "  ".join(
            blank + cell if column.number else cell + blank
            for column, cell, blank in zip(columns, row, blanks, strict=True)
        )
        console.print(Text(line.rstrip(" "), style="" if number else "bold"), soft_wrap=True)


def size(count: int | None) -> str:
    """Bytes for people: `1.5 MB`."""
    if count is None:
        return "-"
    from rich.filesize import decimal

    return decimal(count)


def moment(text: str | None) -> str:
    """The minute of an RFC 3339 time, as given."""
    return "-" if not text else text[:16].replace("T", " ")


def short(digest: str) -> str:
    """The first twelve digits of an ID or digest."""
    return digest.rpartition(":")[2][:12]
