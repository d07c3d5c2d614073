"""Errors as RFC 9457 problem details, and the one table from error code to HTTP status."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from http import HTTPStatus

from aiohttp import web

from streamer import __version__
from streamer.errors import Forbidden, NotFound, StreamerError, Unauthenticated
from streamer.log import logger
from streamer.web.site import SITE

log = logger("streamer.web")

STATUS: dict[str, int] = {
    "invalid_request": 400,
    "invalid_reference": 400,
    "invalid_archive": 400,
    "digest_mismatch": 400,
    "malformed": 400,
    "unauthenticated": 401,
    "not_permitted": 403,
    "forbidden": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "not_acceptable": 406,
    "stalled": 408,
    "ambiguous": 409,
    "conflict": 409,
    "precondition_failed": 412,
    "limit_exceeded": 413,
    "range_not_satisfiable": 416,
    "unsupported": 422,
    "too_many_requests": 429,
    "internal": 500,
    "source_failed": 500,
    "source_changed": 500,
    "store_damaged": 500,
    "mount_failed": 500,
    "pause_expired": 500,
    "consumer_gone": 500,
    "fetch_failed": 502,
    "storage_failed": 502,
    "storage_unreachable": 502,
    "busy": 503,
    "engine_unreachable": 503,
    "draining": 503,
    "unready": 503,
    "http_version": 505,
    "storage_full": 507,
}

CONTENT_TYPE = "application/problem+json"
SERVER = f"streamer/{__version__}"


class Malformed(StreamerError):
    """Not a request as RFC 9112 has it."""

    code = "malformed"


class MethodNotAllowed(StreamerError):
    code = "method_not_allowed"


class NotAcceptable(StreamerError):
    """The client accepts no form of the answer that could be given."""

    code = "not_acceptable"


class PreconditionFailed(StreamerError):
    """The archive is not the version that the request asks for."""

    code = "precondition_failed"


class RangeNotSatisfiable(StreamerError):
    """The range lies behind the archive's end; `details["size"]` says where that is."""

    code = "range_not_satisfiable"


class Unready(StreamerError):
    """Stores that have to answer do not; `details["stores"]` says which."""

    code = "unready"


class HttpVersion(StreamerError):
    """A body without known length cannot end unmistakably in HTTP/1.0."""

    code = "http_version"


def response(error: StreamerError, headers: dict[str, str] | None = None) -> web.Response:
    """The answer for an error that happened before the first byte of a body."""
    status = STATUS.get(error.code, 500)
    details = dict(error.details)
    if "candidates" in details:
        details["candidates"] = [_candidate(each) for each in details["candidates"]]  # type: ignore[attr-defined]
    members = {
        **details,
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "code": error.code,
        "detail": str(error),
    }
    answer = web.Response(
        status=status,
        body=json.dumps(members, default=str).encode() + b"\n",
        content_type=CONTENT_TYPE,
        headers={"Server": SERVER, **(headers or {})},
    )
    if isinstance(error, RangeNotSatisfiable):
        answer.headers["Content-Range"] = f"bytes */{error.details['size']}"
    if isinstance(error, Unauthenticated):
        invalid = ', error="invalid_token"' if error.details.get("given") else ""
        answer.headers["WWW-Authenticate"] = f'Bearer realm="streamer"{invalid}'
    elif isinstance(error, Forbidden):
        answer.headers["WWW-Authenticate"] = 'Bearer realm="streamer", error="insufficient_scope"'
    retry_after = error.details.get("retry_after", 5 if status == 503 else None)
    if retry_after is not None:
        answer.headers["Retry-After"] = str(retry_after)
    return answer


def _candidate(found: object) -> object:
    """One store gives IDs, a look-up across several stores gives each with its store: programs see objects."""
    return {"id": found} if isinstance(found, str) else found


@web.middleware
async def problems(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Turns every failure before the first byte into a problem; counts statuses."""
    headers: dict[str, str] | None = None
    failure: StreamerError | None = None
    try:
        answer = await handler(request)
    except StreamerError as error:
        failure = error
    except web.HTTPMethodNotAllowed as error:
        allowed = ", ".join(sorted(error.allowed_methods))
        failure = MethodNotAllowed(f"{request.method} is not possible here, but {allowed}")
        headers = {"Allow": allowed}
    except web.HTTPNotFound:
        failure = NotFound(f"there is nothing at {request.path[:300]!r}; /openapi.json lists what there is")
    except web.HTTPException as error:
        answer = web.Response(
            status=error.status,
            body=json.dumps(
                {"type": "about:blank", "title": error.reason, "status": error.status, "code": "http"}
            ).encode()
            + b"\n",
            content_type=CONTENT_TYPE,
        )
    except ConnectionError:
        raise  # the client is gone, or its body was broken off on purpose
    except Exception as caught:
        log.error("request failed", method=request.method, path=request.path, exc_info=caught)
        failure = StreamerError("an error inside streamer; its log says more")
    if failure is not None and request.writer.output_size:
        # The answer has begun: a second one would be taken for a part of its body.
        raise ConnectionResetError(str(failure)) from failure
    if failure is not None:
        answer = response(failure, headers)
        request.app[SITE].metrics.problems.labels(failure.code).inc()
    # Anything still unread of the request's body would be taken for the next request.
    if answer.status >= 400 and not request.content.is_eof() and request.can_read_body:
        answer.force_close()
    request.app[SITE].metrics.requests.labels(str(answer.status)).inc()
    return answer
