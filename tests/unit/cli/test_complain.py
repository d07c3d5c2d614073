from __future__ import annotations

import errno
import os
import signal

import pytest

from streamer import errors
from streamer.cli import complain
from streamer.cli.exit import Interrupted
from streamer.errors import NotFound, StorageFull, StreamerError


def test_one_line_whatever_the_message_holds(capsys: pytest.CaptureFixture[str]) -> None:
    complain.complain(NotFound("there is no \x1b[2J\r\nevil \udcff é"))
    assert capsys.readouterr() == ("", "streamer: there is no \\x1b[2J\\r\\nevil \\udcff é\n")


def test_notes_follow(capsys: pytest.CaptureFixture[str]) -> None:
    error = NotFound("first")
    error.add_note("a release failed too")
    complain.complain(error)
    assert capsys.readouterr().err == "streamer: first\nstreamer: note: a release failed too\n"


def test_a_traceback_for_our_own_mistakes_only(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        raise ValueError("oops")
    except ValueError as error:
        complain.complain(error)
    shown = capsys.readouterr().err
    assert shown.startswith("Traceback")
    assert shown.endswith("streamer: an error inside streamer, please report it: ValueError: oops\n")


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (BrokenPipeError(), ""),
        (Interrupted(signal.SIGINT), "streamer: interrupted\n"),
        (Interrupted(signal.SIGTERM), "streamer: terminated\n"),
        (KeyboardInterrupt(), "streamer: interrupted\n"),
    ],
    ids=["pipe", "SIGINT", "SIGTERM", "Ctrl-C"],
)
def test_no_failure_of_ours(error: BaseException, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    complain.complain(error)
    assert capsys.readouterr() == ("", shown)


def test_single_finds_our_error_in_nested_groups() -> None:
    ours = StorageFull("full")
    assert complain.single(ExceptionGroup("", [OSError("x"), ExceptionGroup("", [ours])])) is ours
    other = ValueError("x")
    assert complain.single(ExceptionGroup("", [other])) is other
    assert complain.single(ours) is ours


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOENT, errors.NotFound),
        (errno.EACCES, errors.NotPermitted),
        (errno.EROFS, errors.NotPermitted),
        (errno.EDQUOT, errors.StorageFull),
        (errno.EISDIR, errors.InvalidRequest),
        (errno.EIO, errors.SourceFailed),
    ],
)
def test_refusals_of_the_system(number: int, kind: type[StreamerError]) -> None:
    error = complain.failed("read", "a.tar", OSError(number, os.strerror(number)))
    assert type(error) is kind
    assert str(error) == f"cannot read a.tar: {os.strerror(number)}"
