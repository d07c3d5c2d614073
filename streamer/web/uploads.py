"""`POST /v1/images`: an archive comes in, is verified, and becomes images of the embedded store, or nothing at all."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import anyio.from_thread
from aiohttp import web

from streamer.errors import Draining, InvalidArchive, Unsupported
from streamer.pace import Pace
from streamer.stores.base import ArchiveKind
from streamer.stores.values import image_value
from streamer.tar.reader import Limits
from streamer.web import permitted
from streamer.web.callers import CALLER
from streamer.web.site import SITE


class Body:
    """A request's body as the synchronous source that an import reads in its thread.

    A body that ends early (connection lost, chunk missing) raises: it must never look like a shorter archive.
    """

    def __init__(self, request: web.Request, silence: float, purpose: str = "import") -> None:
        self._purpose = purpose
        self._content = request.content
        self._pace = Pace(silence, f"cannot {purpose}")
        self._rest = b""

    def read(self, size: int) -> bytes:
        """Up to `size` bytes, b"" at the end. Called in a worker thread; waits on the loop for what comes."""
        if not self._rest:
            self._rest = anyio.from_thread.run(self.receive)
        data, self._rest = self._rest[:size], self._rest[size:]
        return data

    async def receive(self) -> bytes:
        """What came next; Stalled if the client is slower than its pace."""
        try:
            return await self._pace.wait(self._content.readany)
        except (web.RequestPayloadError, web.PayloadAccessError, OSError) as error:
            raise InvalidArchive(f"cannot {self._purpose}: the upload ended before its end") from error
        except asyncio.CancelledError as error:
            # aiohttp's shutdown puts one into the body. Let out, it would pass for a cancellation of the import's task.
            if self._content.exception() is not error:
                raise
            raise Draining(f"cannot {self._purpose}: the service is shutting down") from error  # noqa: ASYNC104


async def post(request: web.Request, values: dict[str, Any]) -> web.Response:
    site = request.app[SITE]
    local = site.local
    if local is None:
        raise Unsupported("no embedded store is served here, so there is nowhere to import to")
    permitted.require_import(request[CALLER], local.name, values.get("name"))
    source = Body(request, site.upload_timeout)

    async def work() -> Any:
        return await local.import_archive(
            source,
            name=values.get("name"),
            kind=values.get("format", ArchiveKind.AUTO),
            limits=Limits(total=site.max_import_bytes),
        )

    # In the service's own task group: a client that leaves cannot tear an import, it can only make it fail.
    report = await site.background.run(work)
    images = [image_value(permitted.shown_to(request[CALLER], image)) for image in report.images]
    location = f"/v1/images/{images[0]['id']}/archive" if images else "/v1/images"
    moved = dict(report.moved)
    return web.json_response({"images": images, "moved": moved}, status=201, headers={"Location": location})
