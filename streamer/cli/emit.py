"""Text on standard output: data for people and programs, never an archive."""

from __future__ import annotations

import codecs
import io
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from streamer.cli.complain import failed
from streamer.errors import StreamerError


def emit(text: str, end: str = "\n") -> None:
    """The text and a line's end. BrokenPipeError once nobody reads; our own error for every other refusal."""
    with translated():
        sys.stdout.write(text + end)


def escape_what_cannot_be_encoded() -> None:
    """From now on a character that standard output has no bytes for (in an ASCII locale, or half a character from a
    document) comes out as JSON escapes it: a name must not end a list, and JSON stays JSON."""
    codecs.register_error("json", _escaped)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="json")


def _escaped(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


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
