"""JSON that a request brings, as one of the models of `bodies`."""

from __future__ import annotations

from typing import TypeVar

import anyio
from aiohttp import web
from pydantic import BaseModel, ValidationError

from streamer.errors import InvalidRequest, LimitExceeded, Stalled

T = TypeVar("T", bound=BaseModel)

LONGEST = 256 << 10


async def document(request: web.Request, model: type[T], patience: float, longest: int = LONGEST) -> T:
    """The request's body, which has `patience` seconds to come. InvalidRequest names the first member that is wrong."""
    if request.content_type != "application/json":
        raise InvalidRequest("the body must be application/json")
    data = bytearray()
    try:
        with anyio.fail_after(patience):
            async for chunk in request.content.iter_any():
                data += chunk
                if len(data) > longest:
                    raise LimitExceeded(f"the body is longer than {longest} bytes", limit=longest)
    except TimeoutError:
        raise Stalled(f"the body did not come within {patience:g} seconds") from None
    try:
        return model.model_validate_json(bytes(data))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        name = ".".join(map(str, first["loc"])) or "the body"
        raise InvalidRequest(f"{name[:200]}: {first['msg'][:300]}", parameter=name[:200]) from None
