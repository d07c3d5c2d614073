"""What S3 answers when it does not do what it was asked, as our own errors."""

from __future__ import annotations

from botocore import exceptions
from botocore.parsers import ResponseParserError

from streamer.errors import (
    InvalidRequest,
    LimitExceeded,
    NotFound,
    NotPermitted,
    StorageFailed,
    StorageFull,
    StorageUnreachable,
    StreamerError,
)
from streamer.sinks.base import Exists, Gone
from streamer.sinks.patience import Transient

_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
_PASSING_CODES = frozenset(
    {
        "BadDigest",  # what arrived is not what was sent: once more
        "ConditionalRequestConflict",  # somebody else completes at the same moment; what comes of it, the next try says
        "InternalError",
        "OperationAborted",
        "RequestTimeout",
        "RequestTimeoutException",
        "ServiceUnavailable",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "TooManyRequests",
        "XAmzContentSHA256Mismatch",
    }
)
_EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired"})
_FULL = frozenset({"QuotaExceeded", "QuotaExceededException", "EntityTooLarge", "XMinioStorageFull"})

_BROKEN = (
    exceptions.HTTPClientError,  # connections refused, reset, timed out
    exceptions.ConnectionError,
    ResponseParserError,
    exceptions.IncompleteReadError,
    OSError,
    TimeoutError,
)


class Expired(Exception):
    """The credentials are over; new ones may be there."""

    def __init__(self, error: StreamerError) -> None:
        super().__init__(str(error))
        self.error = error


def refusal(what: str, place: str, bucket: str, error: Exception) -> Exception:
    """What to raise for a failed call: a StreamerError, Transient or Expired; the error itself if it is none of S3's.

    `what` and `place` say what could not be done: `write`, `s3://bucket/key`.
    """
    if isinstance(error, exceptions.ClientError):
        return _answered(f"cannot {what} {place}", bucket, error)
    if isinstance(error, (exceptions.NoCredentialsError, exceptions.PartialCredentialsError)):
        return NotPermitted(
            f"cannot {what} {place}: no credentials for S3 are set (see AWS_ACCESS_KEY_ID, AWS_PROFILE)"
        )
    if isinstance(error, exceptions.CredentialRetrievalError):
        return Transient(NotPermitted(f"cannot {what} {place}: credentials for S3 could not be had: {error}"))
    if isinstance(error, _BROKEN):
        said = "it did not answer in time" if isinstance(error, TimeoutError) else f"{type(error).__name__}"
        return Transient(StorageUnreachable(f"cannot {what} {place}: {_said(error) or said}"))
    if isinstance(error, exceptions.BotoCoreError):
        return InvalidRequest(f"cannot {what} {place}: {error}")
    return error


def _said(error: Exception) -> str:
    """What the system said about a connection that failed."""
    return str(error).strip()[:300]


def _answered(begin: str, bucket: str, error: exceptions.ClientError) -> Exception:
    about = error.response.get("Error", {})
    code, message = str(about.get("Code", "")), str(about.get("Message", ""))[:300]
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    said = f"{begin}: the storage says {code or status}" + (f" ({message})" if message and message != code else "")
    if code == "NoSuchBucket":
        return NotFound(f"{begin}: there is no bucket {bucket!r}")
    if code == "NoSuchUpload":
        return Gone(f"{begin}: its upload is gone, which somebody else ended")
    if code in _EXPIRED:
        return Expired(NotPermitted(f"{said}: renew the credentials"))
    if code in _FULL or status == 507:
        return StorageFull(said)
    if code in _PASSING_CODES or (status in _PASSING and code != "NotImplemented"):
        return Transient(StorageUnreachable(said))
    if status in (401, 403):
        return NotPermitted(f"{said}: check the credentials and the bucket's policy")
    if status == 404:
        return NotFound(said)
    if status in (409, 412):
        return Exists(f"{begin}: it exists already, and may not be replaced")
    if status == 413:
        return LimitExceeded(said)
    if 300 <= status < 400:
        return InvalidRequest(f"{said}: the bucket is in another region, or at another endpoint")
    if 400 <= status < 500:
        return StorageFailed(said)
    if 200 <= status < 300:
        return Transient(StorageFailed(f"{said}, in an answer that looks like a success"))
    return StorageFailed(said)
