"""Exit codes: the one table from a failure's stable code to what a script sees, and its description for `--help`."""

from __future__ import annotations

from types import MappingProxyType

OK = 0
UNEXPECTED = 1
USAGE = 2
BROKEN_PIPE = 141
"""As a shell reports a program that died of SIGPIPE."""

CODES = MappingProxyType(
    {
        "internal": UNEXPECTED,
        "invalid_request": USAGE,
        "invalid_reference": USAGE,
        "not_found": 3,
        "ambiguous": 4,
        "conflict": 4,
        "invalid_archive": 5,
        "digest_mismatch": 5,
        "limit_exceeded": 5,
        "pause_expired": 5,
        "source_failed": 6,
        "source_changed": 6,
        "store_damaged": 6,
        "mount_failed": 6,
        "storage_full": 7,
        "not_permitted": 8,
        "unauthenticated": 8,
        "forbidden": 8,
        "unsupported": 9,
        "busy": 10,
        "too_many_requests": 10,
        "engine_unreachable": 10,
        "unreachable": 10,
        "fetch_failed": 10,
        "storage_failed": 10,
        "storage_unreachable": 10,
        "draining": 10,
        "stalled": 10,
        "consumer_gone": BROKEN_PIPE,
    }
)
"""Every `code` of `streamer.errors` and `streamer.client`; a test compares them."""

MEANINGS = (
    (0, "done"),
    (1, "unexpected error; `doctor` found what fails; `serve` broke a download off"),
    (2, "invalid command line, parameter or reference"),
    (3, "not found"),
    (4, "ambiguous, exists already, or in use"),
    (5, "invalid archive, wrong digest, or a limit exceeded"),
    (6, "the source failed, changed meanwhile, is damaged, or could not be mounted"),
    (7, "no space left"),
    (8, "not permitted"),
    (9, "not supported"),
    (10, "busy, shutting down, or no answer (engine, service, storage, URL)"),
    (130, "interrupted by Ctrl-C (128 + N: ended by signal N)"),
    (141, "the reader of standard output left early"),
)


class Interrupted(Exception):
    """A signal asked the command to end, and everything it held has been released."""

    def __init__(self, number: int) -> None:
        super().__init__(f"ended by signal {number}")
        self.number = number


class ReaderLeft(Exception):
    """Whoever read standard output closed it: `| head`. No failure of ours, and nothing to say to anybody."""


def status(error: BaseException) -> int:
    """The exit code for what ended a command."""
    if isinstance(error, Interrupted):
        return 128 + error.number
    if isinstance(error, KeyboardInterrupt):
        return 130
    if isinstance(error, (BrokenPipeError, ReaderLeft)):
        return BROKEN_PIPE
    return CODES.get(getattr(error, "code", "internal"), UNEXPECTED)


def epilog() -> str:
    """The table as `--help` shows it."""
    return "\n".join(["Exit codes:", *(f"{number:>4}  {meaning}" for number, meaning in MEANINGS)])
