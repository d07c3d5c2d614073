"""Structured logs on standard error: readable on a terminal, one JSON object per line otherwise."""

from __future__ import annotations

import logging
import sys

import structlog

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def logger(name: str) -> structlog.typing.FilteringBoundLogger:
    """A logger; what it says is decided by `configure`, until then nothing."""
    made: structlog.typing.FilteringBoundLogger = structlog.get_logger(name)
    return made


class _Lines(structlog.PrintLogger):
    """Writes lines, and never fails: a full disk behind standard error must not fail what is being logged."""

    def msg(self, message: str) -> None:
        try:
            super().msg(message)
        except (OSError, ValueError):
            pass

    log = debug = info = warn = warning = error = critical = fatal = exception = failure = msg


def configure(level: str = "info", style: str = "auto") -> None:
    """Set up logging for the whole process; called once, by whoever owns it."""
    console = style == "console" or (style == "auto" and sys.stderr.isatty())
    processors: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if console:
        processors.append(structlog.dev.ConsoleRenderer())
    else:
        processors += [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=lambda *_: _Lines(sys.stderr),
        cache_logger_on_first_use=True,
    )
    # aiohttp and asyncio speak through the standard library.
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")


if not structlog.is_configured():
    # Imported as a library nothing is said until somebody sets logging up: structlog by itself would print to standard
    # output, and so into an archive that is being piped.
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
