"""What a build says while it goes on, as lines of JSON in the form of Docker's API."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias

from streamer.errors import StreamerError

Line: TypeAlias = Mapping[str, Any]
"""`{"stream": TEXT}`; `{"status": "Downloading", …}` now and then while ADD fetches a URL; `{"aux": {"ID": IMAGE}}`
once a stage is built; or `{"errorDetail": {…}, "error": TEXT}`, the last one of a build that failed."""
Say: TypeAlias = Callable[[Line], Awaitable[None]]
"""Back when there is room for another line; ConsumerGone once nobody wants to hear any."""


def stream(text: str) -> Line:
    """Text for people, which ends with its line."""
    return {"stream": text + "\n"}


def fetching(url: str, done: int, size: int | None) -> Line:
    """How far the fetching of a file is, in bytes; `size` where the server has told it."""
    detail = {"current": done} if size is None else {"current": done, "total": size}
    return {"status": "Downloading", "id": url, "progressDetail": detail}


def built(image: str) -> Line:
    return {"aux": {"ID": image}}


def failed(error: StreamerError) -> Line:
    """`code` is the stable one, which Docker's API does not have in this place."""
    return {"errorDetail": {"message": str(error), "code": error.code}, "error": str(error)}
