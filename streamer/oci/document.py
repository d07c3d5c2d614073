"""JSON documents from outside, read strictly, and our own, written deterministically."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from streamer.errors import InvalidArchive


def loads(data: bytes, what: str, limit: int) -> Any:
    """The value of a JSON document; InvalidArchive naming `what` if it is too large, too deep or not JSON."""
    if len(data) > limit:
        raise InvalidArchive(f"{what} is larger than {limit} bytes", member=what)
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidArchive(f"{what} is not valid JSON: {str(error)[:200]}", member=what) from None


def mapping(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidArchive(f"{what} is not a JSON object", member=what)
    return value


def dumps(value: Mapping[str, Any] | list[Any]) -> bytes:
    """Compact JSON in the mapping's own order: the same value gives the same bytes, hence the same digest."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")
