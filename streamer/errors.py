"""Every failure that streamer reports: one root, one stable code per class, one sentence per instance.

A message says what could not be done, to what, and where it helps what to do. It never holds a path of the host
that the caller did not name: bodies of HTTP errors show messages as they are. The HTTP status of a code is in
`web/problems.py`, the exit code of the command line in `cli/exit.py`; neither is known here.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

_SHOWN = 200


class StreamerError(Exception):
    """The root. `code` is stable and meant for programs, `str(error)` is one sentence meant for people."""

    code: ClassVar[str] = "internal"

    def __init__(self, message: str, **details: object) -> None:
        super().__init__(message)
        self.details = details
        """Extra members for machine readers (candidates, member, limit …): JSON-serialisable values only."""


class InvalidRequest(StreamerError):
    """A parameter or value that is unknown or malformed; the message names it."""

    code = "invalid_request"


class InvalidReference(InvalidRequest):
    """A name, ID or digest that no store could ever hold."""

    code = "invalid_reference"


class NotFound(StreamerError):
    """Nothing in any store answers to the reference."""

    code = "not_found"


class Ambiguous(StreamerError):
    """Several things answer to the reference; `details["candidates"]` lists them."""

    code = "ambiguous"


class Conflict(StreamerError):
    """The thing exists already, or is in use."""

    code = "conflict"


class Unsupported(StreamerError):
    """Well-formed, but not possible for this source (a socket as `path=`, a sparse map we do not know, …)."""

    code = "unsupported"


class NotPermitted(StreamerError):
    """The kernel refused for want of a privilege; the message says which."""

    code = "not_permitted"


class Unauthenticated(StreamerError):
    """The service answers only to those who show a token, and none that it knows was shown."""

    code = "unauthenticated"


class Forbidden(StreamerError):
    """The token is known, but its scope does not reach as far; `details["missing"]` says what it lacks."""

    code = "forbidden"


class TooManyRequests(StreamerError):
    """One client asks for more than its share; try again after `details["retry_after"]` seconds."""

    code = "too_many_requests"


class InvalidArchive(StreamerError):
    """What came in is not a well-formed, harmless archive; `details["member"]` names the entry where known."""

    code = "invalid_archive"


class DigestMismatch(InvalidArchive):
    """Bytes that came in do not have the digest that was promised for them."""

    code = "digest_mismatch"


class LimitExceeded(StreamerError):
    """A configured limit was reached (size, entries, ratio, window, depth); the message names it and its value."""

    code = "limit_exceeded"


class StorageFull(StreamerError):
    """No space or quota left where streamer writes."""

    code = "storage_full"


class StoreDamaged(StreamerError):
    """A store's files contradict each other; the message names the file."""

    code = "store_damaged"


class EngineUnreachable(StreamerError):
    """An engine that must do something (pause a container, say what it keeps) does not answer."""

    code = "engine_unreachable"


class PauseExpired(StreamerError):
    """A container was paused for an export for as long as allowed, and had to be resumed before all was read."""

    code = "pause_expired"


class MountFailed(StreamerError):
    """An overlay could not be mounted; the message carries the kernel's own words where it has any."""

    code = "mount_failed"


class SourceFailed(StreamerError):
    """Reading the source failed (EIO, EACCES …)."""

    code = "source_failed"


class SourceChanged(SourceFailed):
    """The source changed under the export: a file shrank or was replaced, or the store removed the layer."""

    code = "source_changed"


class Busy(StreamerError):
    """As many exports as allowed are open; try again after `details["retry_after"]` seconds."""

    code = "busy"


class Draining(StreamerError):
    """The service is shutting down."""

    code = "draining"


class StorageFailed(StreamerError):
    """Object storage did not keep what it was given: a wrong ETag, an answer that makes no sense."""

    code = "storage_failed"


class StorageUnreachable(StorageFailed):
    """Object storage does not answer, or fails, as often as it was tried."""

    code = "storage_unreachable"


class FetchFailed(StreamerError):
    """A URL did not give its file: no connection, another answer than the file, one that broke off."""

    code = "fetch_failed"


class Stalled(StreamerError):
    """The client took nothing for longer than allowed."""

    code = "stalled"


class ConsumerGone(StreamerError):
    """Seen only by a producer: nobody reads its stream any more. Not a failure of the source."""

    code = "consumer_gone"


def shown(name: bytes) -> str:
    """A name of a file or an archive member for messages: one line, printable, long ones cut in the middle."""
    if len(name) > _SHOWN:
        name = name[: _SHOWN // 2] + b"[...]" + name[-_SHOWN // 2 :]
    text = name.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


FILE_REFUSALS: Mapping[int, type[StreamerError]] = MappingProxyType(
    {
        errno.ENOENT: NotFound,
        errno.ENOTDIR: NotFound,
        errno.EISDIR: InvalidRequest,
        errno.ENAMETOOLONG: InvalidRequest,
        errno.EACCES: NotPermitted,
        errno.EPERM: NotPermitted,
        errno.EROFS: NotPermitted,
        errno.ENOSPC: StorageFull,
        errno.EDQUOT: StorageFull,
        errno.EFBIG: StorageFull,
    }
)
"""What the system's refusal to read or write a file that somebody named is, by its number."""
