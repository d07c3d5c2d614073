"""S3 and compatible storage."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import anyio

from streamer.errors import NotFound, NotPermitted
from streamer.log import logger
from streamer.sinks import calls
from streamer.sinks.base import Begun, Exists, Gone, Layout, Record, Target, Upload
from streamer.sinks.calls import Calls
from streamer.sinks.multipart import SKEW, Multipart

log = logger("streamer.sinks")

LAYOUT = Layout(smallest=5 << 20, largest=5 << 30, most=10_000)
"""https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html"""


class S3:
    """Storage in the buckets that `calls` reaches."""

    layout = LAYOUT
    ordered = False

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def open(
        self, target: Target, record: Record, *, step: int, concurrency: int, begun: Begun | None = None
    ) -> AbstractAsyncContextManager[Upload]:
        return self._opened(target, record, begun)

    @asynccontextmanager
    async def _opened(self, target: Target, record: Record, begun: Begun | None) -> AsyncIterator[Upload]:
        upload = Multipart(self._calls, target, record)
        if begun is not None:
            await upload.resume(begun)
        try:
            yield upload
        finally:
            if not upload.completed and not record.suspended:
                with anyio.move_on_after(self._calls.patience.abort, shield=True):
                    await upload.abort()

    async def refuse_existing(self, target: Target) -> None:
        if target.replace:
            return
        try:
            await self._calls.call("write", target.address, "head_object", Key=target.address.key)
        except (NotFound, NotPermitted):
            return  # who may only write is told 403 here; the upload's own condition decides
        raise Exists(f"cannot write {target.address}: it exists already, and may not be replaced")

    async def found(self, target: Target, size: int, digest: str) -> str | None:
        try:
            there = await calls.found(self._calls, target)
        except NotPermitted:
            # Who may only write is told 403, also of what is not there. It is sent once more: the same bytes.
            log.info("object cannot be looked for", destination=str(target.address))
            return None
        return None if there is None or there.size != size else there.etag

    async def sweep(
        self, target: Target, *, upload: str | None = None, since: float | None = None, keep: Collection[str] = ()
    ) -> None:
        address = target.address
        left = {upload} if upload else set()
        if since is not None:
            try:
                found = await calls.uploads(self._calls, address)
            except NotPermitted:
                log.warning("uploads cannot be listed", destination=str(address))
                found = []
            begin = since + self._calls.ahead - SKEW
            end = begin + self._calls.patience.longest + 2 * SKEW
            left |= {each for each, began in found if begin <= began <= end}
        for each in left - set(keep):
            try:
                await self._calls.call("sweep", address, "abort_multipart_upload", Key=address.key, UploadId=each)
            except (Gone, NotFound):
                continue
            log.info("upload swept", destination=str(address), upload=each)
