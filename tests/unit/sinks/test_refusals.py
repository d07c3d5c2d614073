"""What S3 answers, as our own errors: what is tried again, what is not, and what the sentence says."""

from __future__ import annotations

import pytest
from botocore import exceptions
from botocore.exceptions import ClientError

from streamer.errors import (
    Conflict,
    InvalidRequest,
    NotFound,
    NotPermitted,
    StorageFailed,
    StorageFull,
    StorageUnreachable,
    StreamerError,
)
from streamer.sinks.base import Gone
from streamer.sinks.patience import Transient
from streamer.sinks.refusals import Expired, refusal


def answered(status: int, code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "m"}, "ResponseMetadata": {"HTTPStatusCode": status}}, "Put")


@pytest.mark.parametrize(
    ("error", "passing", "kind", "said"),
    [
        (answered(404, "NoSuchBucket"), False, NotFound, "there is no bucket 'b'"),
        (answered(404, "NoSuchUpload"), False, Gone, "its upload is gone"),
        (answered(403, "AccessDenied"), False, NotPermitted, "AccessDenied (m): check the credentials"),
        (answered(403, "SignatureDoesNotMatch"), False, NotPermitted, "check the credentials"),
        (answered(412, "PreconditionFailed"), False, Conflict, "it exists already"),
        (answered(409, "ConditionalRequestConflict"), True, StorageUnreachable, "ConditionalRequestConflict"),
        (answered(507, "x"), False, StorageFull, "x"),
        (answered(400, "EntityTooSmall"), False, StorageFailed, "EntityTooSmall"),
        (answered(301, "PermanentRedirect"), False, InvalidRequest, "in another region"),
        (answered(400, "BadDigest"), True, StorageUnreachable, "BadDigest"),
        (answered(400, "RequestTimeout"), True, StorageUnreachable, "RequestTimeout"),
        (answered(500, "InternalError"), True, StorageUnreachable, "InternalError"),
        (answered(501, "NotImplemented"), False, StorageFailed, "NotImplemented"),
        (answered(503, "SlowDown"), True, StorageUnreachable, "SlowDown"),
        (answered(429, "TooManyRequests"), True, StorageUnreachable, "TooManyRequests"),
        (answered(200, "InternalError"), True, StorageUnreachable, "InternalError"),
        (answered(200, "Odd"), True, StorageFailed, "an answer that looks like a success"),
        (exceptions.EndpointConnectionError(endpoint_url="http://x"), True, StorageUnreachable, "http://x"),
        (exceptions.ReadTimeoutError(endpoint_url="http://x"), True, StorageUnreachable, "http://x"),
        (TimeoutError(), True, StorageUnreachable, "it did not answer in time"),
        (ConnectionResetError(104, "Connection reset by peer"), True, StorageUnreachable, "reset by peer"),
        (exceptions.NoCredentialsError(), False, NotPermitted, "no credentials"),
        (exceptions.NoRegionError(), False, InvalidRequest, "region"),
    ],
)
def test_refusals(error: Exception, passing: bool, kind: type[StreamerError], said: str) -> None:
    found = refusal("write", "s3://b/k", "b", error)
    assert isinstance(found, Transient) == passing
    meant = found.error if isinstance(found, Transient) else found
    assert type(meant) is kind or (isinstance(meant, kind) and kind is Conflict)
    assert str(meant).startswith("cannot write s3://b/k: ")
    assert said in str(meant)


@pytest.mark.parametrize("code", ["ExpiredToken", "RequestExpired"])
def test_expired_credentials_are_told_apart(code: str) -> None:
    found = refusal("write", "s3://b/k", "b", answered(403, code))
    assert isinstance(found, Expired)
    assert "renew the credentials" in str(found.error)


def test_what_is_none_of_its_errors_stays_as_it_is() -> None:
    error = ZeroDivisionError()
    assert refusal("write", "s3://b/k", "b", error) is error
