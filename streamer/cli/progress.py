"""A progress bar on standard error, where that is a terminal: bytes, rate and, where it can be known, what remains."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from streamer.cli.complain import printable
from streamer.cli.running import last_action


@contextmanager
def progress(title: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A function to be called with the number of bytes that went by so far. It may be called from any thread.

    The bar is gone when the block is left. Away from a terminal nothing is ever written.
    """
    if not sys.stderr.isatty():
        yield lambda count: None
        return

    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        FileSizeColumn,
        Progress,
        ProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    console = Console(stderr=True)
    columns: list[ProgressColumn] = [TextColumn("{task.description}", markup=False)]
    if total is not None:
        columns += [BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(compact=True)]
    else:
        columns += [FileSizeColumn(), TransferSpeedColumn(), TimeElapsedColumn()]
    bar = Progress(*columns, console=console, transient=True)
    with last_action(lambda: console.show_cursor(True)), bar:
        task = bar.add_task(printable(title), total=total)
        yield lambda count: bar.update(task, completed=count)
