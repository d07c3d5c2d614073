"""Text on standard output: data for people and programs, never an archive."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from streamer.cli.complain import failed
from streamer.errors import StreamerError


def emit(text: str, end: str = "\n") -> None:
    """The text and a line's end. BrokenPipeError once nobody reads; our own error for every other refusal."""
    with translated():
        sys.stdout.write(text + end)


def flush() -> None:
    """Everything emitted so far is out when this returns; raises as `emit` does."""
    with translated():
        sys.stdout.flush()


@contextmanager
def translated() -> Iterator[None]:
    """The same errors for what else is written to standard output inside the block, as rich does for `--help`."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise failed("write", "standard output", error, StreamerError) from error
