"""What a failure looks like: one line `streamer: <message>`, and a traceback only for our own mistakes."""

from __future__ import annotations

import os
import signal
import sys
import traceback

from streamer.cli.exit import Interrupted, ReaderLeft
from streamer.errors import (
    FILE_REFUSALS,
    SourceFailed,
    StreamerError,
)


def failed(what: str, path: str, error: OSError, otherwise: type[StreamerError] = SourceFailed) -> StreamerError:
    """Our error for the system's refusal to `what` (`read`, `write`) a file that the caller named."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    return FILE_REFUSALS.get(error.errno or 0, otherwise)(f"cannot {what} {path}: {reason}")


def single(error: BaseException) -> BaseException:
    """The failure inside nested exception groups: task groups wrap even a lone one. Our own errors go first."""
    while isinstance(error, BaseExceptionGroup):
        ours = [one for one in error.exceptions if isinstance(one, (StreamerError, BaseExceptionGroup))]
        error = (ours or list(error.exceptions))[0]
    return error


def complain(error: BaseException) -> None:
    """Say on standard error what went wrong. Silence for a reader that left: nobody is there, and nothing failed."""
    if isinstance(error, (BrokenPipeError, ReaderLeft)):
        return
    if isinstance(error, (Interrupted, KeyboardInterrupt)):
        say("terminated" if getattr(error, "number", None) == signal.SIGTERM else "interrupted")
        return
    if not isinstance(error, StreamerError):
        _trace(error)
        say(f"an error inside streamer, please report it: {type(error).__name__}: {error}")
        return
    if error.code == StreamerError.code and error.__cause__ is not None and not isinstance(error.__cause__, OSError):
        _trace(error.__cause__)
    say(str(error))
    for note in getattr(error, "__notes__", ()):
        say(f"note: {note}")


def _trace(error: BaseException) -> None:
    """Where our mistake is, for whoever reports it."""
    try:
        traceback.print_exception(error)
    except OSError:
        pass


def say(message: str) -> None:
    """One line on standard error, whatever the message holds: names in it may come from a hostile archive."""
    try:
        print(f"streamer: {printable(message)}", file=sys.stderr, flush=True)
    except OSError:
        pass  # standard error itself is gone: the exit code still tells


def printable(text: str) -> str:
    """The text with everything escaped that could move a cursor, break a line or hide."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode("ascii") for c in text)
