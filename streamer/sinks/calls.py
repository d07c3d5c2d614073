"""Calls to S3 and compatible storage, tried again as long as that may help.

The library's own retries are off: they would repeat what may not be repeated blindly (a Complete whose answer was
lost), and know nothing of cancellation.
"""

from __future__ import annotations

import io
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

import anyio
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.exceptions import BotoCoreError

from streamer.errors import InvalidRequest, NotFound
from streamer.log import logger
from streamer.sinks.address import Address
from streamer.sinks.base import Gone, Target
from streamer.sinks.metadata import is_ours
from streamer.sinks.patience import Patience, Transient
from streamer.sinks.refusals import Expired, refusal

log = logger("streamer.sinks")

_CONNECTIONS = 64
_CLOSING = 10.0
"""Seconds for closing the connections of a client that was replaced."""


@asynccontextmanager
async def calls(*, path_style: bool, patience: Patience) -> AsyncIterator[Calls]:
    """Calls to S3 with the usual settings: AWS_ENDPOINT_URL, AWS_REGION, AWS_PROFILE, credentials of every kind."""
    async with AsyncExitStack() as stack:
        made = Calls(path_style=path_style, patience=patience)
        stack.push_async_callback(made.close)
        yield made


@dataclass(frozen=True, slots=True)
class Object:
    """What is there."""

    etag: str
    size: int


class _Body(io.BytesIO):
    """What a call sends, in the only form that the client library takes without reading it in threads; not a copy.

    Closed, it lets go of the bytes at once: the library's objects refer to each other in circles, and would hold parts
    that were sent until the garbage collector comes by.
    """

    def __init__(self, data: memoryview) -> None:
        super().__init__()
        self._data = data
        self._place = 0

    def read(self, size: int | None = -1, /) -> bytes:
        stop = len(self._data) if size is None or size < 0 else self._place + size
        block = bytes(self._data[self._place : stop])
        self._place += len(block)
        return block

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: len(self._data)}[whence]
        self._place = base + offset
        return self._place

    def tell(self) -> int:
        return self._place

    def getbuffer(self) -> memoryview:
        return memoryview(self._data)  # another one, for who asks for it releases it

    def close(self) -> None:
        self._data = memoryview(b"")
        super().close()


@dataclass(eq=False, slots=True)
class _Client:
    """One client of the library. A client that was replaced is open until the last of its `calls` has ended."""

    library: Any
    stack: AsyncExitStack
    calls: int = 0
    replaced: bool = False


class Calls:
    """Every call to S3 goes through here. Made by `calls`, which closes the clients."""

    def __init__(self, *, path_style: bool, patience: Patience) -> None:
        self.patience = patience
        self._path_style = path_style
        self._client: _Client | None = None
        """What new calls are made with."""
        self._clients: list[_Client] = []
        """All that are open."""
        self.ahead = 0.0
        """Seconds that the storage's clock is ahead of ours, by its last answer; to the second."""
        self._opening = anyio.Lock()

    async def call(
        self,
        what: str,
        address: Address,
        operation: str,
        *,
        body: memoryview | None = None,
        once: bool = False,
        **more: Any,
    ) -> dict[str, Any]:
        """The answer of an operation on the object, tried again as long as that may help; `body` is what it sends.

        With `once`, Transient comes out as it is: for what must not be repeated blindly. Errors as in `base.Storage`;
        Gone for an upload that is not there, Exists where a condition was not met.
        """
        failures, renewed = 0, False
        while True:
            arguments = {"Bucket": address.bucket, **more}
            file = _Body(body if body is not None else memoryview(b""))
            if body is not None:
                arguments["Body"] = file
            limit = self.patience.limit(0 if body is None else len(body))
            client = await self._opened()
            try:
                async with self._used(client) as library:
                    with file, anyio.fail_after(limit):
                        answer: dict[str, Any] = await getattr(library, operation)(**arguments)
                self._compare(answer)
                return answer
            except Exception as caught:
                error = refusal(what, str(address), address.bucket, caught)
                if error is caught:
                    raise
                error.__cause__ = caught
            if isinstance(error, Expired):
                if renewed:
                    raise error.error from error.__cause__
                renewed = True
                await self._renew(client)
            elif isinstance(error, Transient) and not once:
                failures += 1
                await self.patience.bear(failures, error)
            else:
                raise error

    def _compare(self, answer: dict[str, Any]) -> None:
        date = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
        if date:
            try:
                self.ahead = parsedate_to_datetime(date).timestamp() - time.time()
            except ValueError:
                pass

    async def close(self) -> None:
        """Closes every client, of which none is used any more."""
        async with AsyncExitStack() as stack:
            while self._clients:
                await stack.enter_async_context(self._clients.pop().stack)

    async def _opened(self) -> _Client:
        async with self._opening:
            if self._client is None:
                self._client = await self._made()
            return self._client

    @asynccontextmanager
    async def _used(self, client: _Client) -> AsyncIterator[Any]:
        """The library's client, open at least until the block is left."""
        client.calls += 1
        try:
            yield client.library
        finally:
            client.calls -= 1
            with anyio.move_on_after(_CLOSING, shield=True):
                await self._released(client)

    async def _renew(self, client: _Client) -> None:
        """Reads the credentials anew, from wherever they come. Calls under way go on with the client they have."""
        async with self._opening:
            if self._client is client:
                self._client = await self._made()
                client.replaced = True
        with anyio.move_on_after(_CLOSING, shield=True):
            await self._released(client)

    async def _released(self, client: _Client) -> None:
        """Closes a client that nobody will use any more. What goes wrong there fails no call: it is logged."""
        if not client.replaced or client.calls or client not in self._clients:
            return
        self._clients.remove(client)
        try:
            await client.stack.aclose()
        except Exception as error:
            log.warning("client of object storage not closed", error=str(error))

    async def _made(self) -> _Client:
        # Unsigned: each part has its checksum, which the storage checks; signing would hash it once more, on the loop.
        config = AioConfig(
            retries={"total_max_attempts": 1, "mode": "standard"},
            connect_timeout=self.patience.connect,
            read_timeout=self.patience.answer,
            max_pool_connections=_CONNECTIONS,
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            s3={
                "payload_signing_enabled": False,
                "addressing_style": "path" if self._path_style else "auto",
            },
        )
        # Shielded: a client whose making was abandoned would be closed by nobody.
        with anyio.CancelScope(shield=True):
            stack = AsyncExitStack()
            try:
                library = await stack.enter_async_context(get_session().create_client("s3", config=config))
            except (BotoCoreError, ValueError) as error:  # a profile that is not there, an endpoint without a scheme
                raise InvalidRequest(f"the settings for S3 (AWS_…) cannot be used: {error}") from error
            made = _Client(library, stack)
            self._clients.append(made)
        return made


async def found(calls: Calls, target: Target) -> Object | None:
    """The very object that this export made; None if there is none, or another."""
    try:
        answer = await calls.call("look at", target.address, "head_object", Key=target.address.key)
    except NotFound:
        return None
    if not is_ours(target, answer.get("Metadata", {})):
        return None
    return Object(str(answer.get("ETag", "")).strip('"'), answer["ContentLength"])


async def uploads(calls: Calls, address: Address) -> list[tuple[str, float]]:
    """Unfinished uploads to this very key: their IDs, and when each began by the storage's clock."""
    found: list[tuple[str, float]] = []
    more: dict[str, Any] = {}
    while True:
        try:
            answer = await calls.call("list uploads to", address, "list_multipart_uploads", Prefix=address.key, **more)
        except Gone:
            return found  # how some say that there are none
        found += [
            (each["UploadId"], each["Initiated"].timestamp())
            for each in answer.get("Uploads", ())
            if each["Key"] == address.key
        ]
        if not answer.get("IsTruncated"):
            return found
        more = {"KeyMarker": answer["NextKeyMarker"], "UploadIdMarker": answer["NextUploadIdMarker"]}
