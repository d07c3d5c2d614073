"""A progress bar on standard error, where that is a terminal: bytes, rate and, where it can be known, what remains."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from streamer.cli.complain import printable
from streamer.cli.running import last_action
from streamer.client.watch import Watch

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn, TaskID


@contextmanager
def progress(title: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A function to be called with the number of bytes that went by so far. It may be called from any thread.

    The bar is gone when the block is left. Away from a terminal nothing is ever written.
    """
    if not sys.stderr.isatty():
        yield lambda count: None
        return
    with _shown(_columns(total)) as bar:
        task = bar.add_task(printable(title), total=total)
        yield lambda count: bar.update(task, completed=count)


@contextmanager
def watching(title: str) -> Iterator[Watch]:
    """The same for a download: its size is known only once it is under way, and it may begin in the middle.

    What is noted stays on the terminal above the bar.
    """
    if not sys.stderr.isatty():
        yield Watch()
        return
    with _shown(_columns(None)) as bar:
        yield _Download(bar, printable(title))


class _Download(Watch):
    def __init__(self, bar: Progress, title: str) -> None:
        self._bar, self._title = bar, title
        self._task: TaskID | None = None
        self._shown: tuple[int | None, str] | None = None
        self._done = 0

    def progress(self, done: int, size: int | None, doing: str = "") -> None:
        if self._task is None or (size, doing) != self._shown or done < self._done:
            title = f"{self._title} ({doing})" if doing else self._title
            if self._task is None or size != (self._shown or (None,))[0] or done < self._done:
                # A new one: what was there before is no part of the rate.
                if self._task is not None:
                    self._bar.remove_task(self._task)
                self._bar.columns = tuple(_columns(size))
                self._task = self._bar.add_task(title, total=size, completed=done)
            self._bar.update(self._task, description=title)
            self._shown = size, doing
        self._done = done
        self._bar.update(self._task, completed=done)

    def note(self, text: str) -> None:
        from rich.text import Text

        self._bar.console.print(Text(f"streamer: {printable(text)}"), soft_wrap=True)


def _columns(total: int | None) -> list[ProgressColumn]:
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        FileSizeColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    title = TextColumn("{task.description}", markup=False)
    if total is None:
        return [title, FileSizeColumn(), TransferSpeedColumn(), TimeElapsedColumn()]
    return [title, BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(compact=True)]


@contextmanager
def _shown(columns: list[ProgressColumn]) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    bar = Progress(*columns, console=console, transient=True)
    with last_action(lambda: console.show_cursor(True)), bar:
        yield bar
