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
        emit(json.dumps(list(records), indent=2, ensure_ascii=not _unicode()))
    elif sys.stdout.isatty():
        _table(records, columns)
    else:
        for record in records:
            emit("\t".join(_cell(column.plain(record)) for column in columns))


def _cell(value: object) -> str:
    return "-" if value is None else printable(str(value))


def _table(records: Sequence[Record], columns: Sequence[Column]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column.title, justify="right" if column.number else "left", overflow="fold")
    for record in records:
        table.add_row(*(Text(_cell((column.short or column.plain)(record))) for column in columns))
    Console().print(table)


def _unicode() -> bool:
    return (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"


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
