from __future__ import annotations

import json

import pytest
from multidict import CIMultiDict

from streamer import errors
from streamer.cli.exit import CODES
from streamer.client.failure import Changed, Transient, Unreachable, refusal
from streamer.web.problems import STATUS


def _problem(code: str, detail: str = "it is so") -> bytes:
    return json.dumps({"code": code, "detail": detail, "status": 1}).encode()


@pytest.mark.parametrize(
    ("status", "body", "kind", "message"),
    [
        (404, _problem("not_found"), errors.NotFound, "it is so"),
        (409, _problem("ambiguous"), errors.Ambiguous, "it is so"),
        (422, _problem("unsupported"), errors.Unsupported, "it is so"),
        (400, _problem("invalid_request"), errors.InvalidRequest, "it is so"),
        (500, _problem("source_changed"), errors.SourceChanged, "it is so"),
        (500, _problem("internal"), errors.StreamerError, "http://node: it is so"),
        (500, _problem("consumer_gone"), errors.SourceFailed, "it is so"),
        (418, _problem("from the future"), errors.InvalidRequest, "it is so"),
        (404, b"<html>", errors.NotFound, "http://node answered 404 (Not Found)"),
        (401, b"", errors.NotPermitted, "answered 401 (Unauthorized)"),
        (500, b"[" * 60_000, errors.SourceFailed, "answered 500"),
        (599, b'{"detail": 5, "code": []}', errors.SourceFailed, "answered 599 (an unknown status)"),
        (301, b"", errors.InvalidRequest, "redirects to 'http://other/', and is not followed"),
        (304, b"", errors.InvalidRequest, "answered 304 (Not Modified)"),
        (500, _problem("digest_mismatch"), errors.SourceFailed, "it is so"),
        (412, b"", Changed, ""),
        (416, b"", Changed, ""),
    ],
)
def test_refusal(status: int, body: bytes, kind: type[Exception], message: str) -> None:
    error = refusal("http://node", status, CIMultiDict({"Location": "http://other/"}), body)
    assert type(error) is kind
    assert message in str(error)


def test_nothing_has_changed_where_nobody_asked_for_a_version() -> None:
    assert isinstance(refusal("http://node", 416, CIMultiDict(), b"", conditional=False), errors.InvalidRequest)


@pytest.mark.parametrize(
    ("status", "retry_after", "wait"),
    [(503, "7", 7), (503, "", 0), (429, "Wed, 21 Oct 2026 07:28:00 GMT", 0), (502, "-1", 0), (504, "9" * 99, 0)],
)
def test_what_may_pass(status: int, retry_after: str, wait: float) -> None:
    error = refusal("http://node", status, CIMultiDict({"retry-after": retry_after}), b"")
    assert isinstance(error, Transient)
    assert error.wait == wait
    assert CODES[error.error.code] == 10


def test_a_busy_service_is_quoted() -> None:
    error = refusal("http://node", 503, CIMultiDict(), _problem("draining"))
    assert isinstance(error, Transient)
    assert isinstance(error.error, errors.Draining)


@pytest.mark.parametrize("code", STATUS)
def test_every_refusal_of_the_service_has_an_exit_code(code: str) -> None:
    error = refusal("http://node", STATUS[code], CIMultiDict(), _problem(code))
    if isinstance(error, Changed):
        return
    raised = error.error if isinstance(error, Transient) else error
    assert isinstance(raised, errors.StreamerError)
    if code in CODES and code not in ("consumer_gone", "digest_mismatch"):
        assert raised.code == code
    assert CODES[raised.code] not in (141, 0)


def test_a_long_detail_is_cut() -> None:
    assert len(str(refusal("http://node", 400, CIMultiDict(), _problem("conflict", "x" * 9999)))) == 2000


def test_unreachable_is_no_error_of_the_stores() -> None:
    assert Unreachable.code not in STATUS
