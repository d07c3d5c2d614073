"""Google Cloud Storage, Azure Blob and memory, through obstore.

The library takes an asynchronous iterator and cuts it into parts of its own. Cancelling it leaves the upload on the
server, so that never happens: an upload that is left makes the iterator raise, and is then waited for. It cannot make a
large object only if there is none: such a one is written beside its place, and copied there on that condition.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Collection
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeVar

import anyio
import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    NotSupportedError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import ObjectStore

from streamer.errors import NotFound, NotPermitted, StorageUnreachable, StreamerError, Unsupported
from streamer.log import logger
from streamer.sinks.base import Begun, Exists, Layout, Record, Target, Upload
from streamer.sinks.metadata import DIGEST, SIZE, is_ours
from streamer.sinks.patience import Patience

log = logger("streamer.sinks")

T = TypeVar("T")


class Objects:
    """Storage in one bucket or container."""

    layout = Layout(smallest=5 << 20, largest=4000 << 20, most=10_000)
    """Google's limits; Azure takes 50,000 parts of up to 4000 MiB."""
    ordered = True

    def __init__(self, store: ObjectStore, patience: Patience) -> None:
        self._store = store
        self._patience = patience

    def open(
        self, target: Target, record: Record, *, step: int, concurrency: int, begun: Begun | None = None
    ) -> AbstractAsyncContextManager[Upload]:
        return self._opened(target, record, step, concurrency, begun)

    @asynccontextmanager
    async def _opened(
        self, target: Target, record: Record, step: int, concurrency: int, begun: Begun | None
    ) -> AsyncIterator[Upload]:
        upload = _Object(self._store, target, record, step, concurrency, begun is not None)
        try:
            yield upload
        finally:
            if not upload.completed:
                with anyio.move_on_after(self._patience.abort, shield=True):
                    await upload.abort()

    async def refuse_existing(self, target: Target) -> None:
        if not target.replace and await _head(self._store, target, target.address.key) is not None:
            raise _exists(target)

    async def found(self, target: Target, size: int, digest: str) -> str | None:
        return await _found(self._store, target, target.address.key, size)

    async def sweep(
        self, target: Target, *, upload: str | None = None, since: float | None = None, keep: Collection[str] = ()
    ) -> None:
        """Parts that were never made an object cannot be listed: Azure drops them after a week, Google by a rule. What
        was written beside the place is deleted. That somebody may not delete is only logged: it will not pass."""
        if upload == target.address.key:
            return
        try:
            await _gone(self._store, target)
        except NotPermitted as error:
            _left_behind(target, error)


class _Object:
    def __init__(
        self, store: ObjectStore, target: Target, record: Record, step: int, concurrency: int, begun: bool
    ) -> None:
        self.completed = False
        self._begun = begun
        """Whether another process may have left something beside the place."""
        self._store, self._target, self._record = store, target, record
        self._step, self._concurrency = step, concurrency
        self._place = target.address.key if target.replace else _beside(target)
        self._queue: asyncio.Queue[memoryview | None] = asyncio.Queue(1)
        self._left = False
        self._making: asyncio.Future[Any] | None = None
        self._whole: memoryview | None = None

    async def put(self, number: int, data: memoryview, *, last: bool) -> None:
        if number == 1 and last:
            self._whole = data
            return
        if self._making is None:
            await self._record.begun(self._place)
            self._making = asyncio.ensure_future(
                obstore.put_async(
                    self._store,
                    self._place,
                    self._blocks(),
                    attributes=self._attributes({}),
                    chunk_size=self._step,
                    max_concurrency=self._concurrency,
                )
            )
        await self._give(data)

    async def complete(self, size: int, digest: str) -> str:
        key = self._target.address.key
        if self._whole is not None:
            etag = await self._settled(
                obstore.put_async(
                    self._store,
                    key,
                    self._whole,
                    attributes=self._attributes({DIGEST: digest, SIZE: str(size)}),
                    mode="overwrite" if self._target.replace else "create",
                    use_multipart=False,
                ),
                key,
                size,
            )
        else:
            assert self._making is not None
            await self._give(None)
            await asyncio.wait({self._making})
            etag = await self._settled(self._making, self._place, size)
            if not self._target.replace:
                copied = obstore.copy_async(self._store, self._place, key, overwrite=False)
                etag = await self._settled(copied, key, size)
        self.completed = True
        await self._tidied()
        return etag

    async def abort(self) -> None:
        """Makes the library take back what it has sent. Errors are logged. Where that is not waited for to its end, the
        library goes on with it as long as the process lives."""
        if self._making is not None:
            self._left = True
            self._making.add_done_callback(_noticed)
            if self._queue.full():
                self._queue.get_nowait()
            self._queue.put_nowait(None)
            await asyncio.wait({self._making})
            error = self._making.exception()
            if not isinstance(error, _Left | None):
                log.warning(
                    "upload failed while it was taken back", destination=str(self._target.address), error=str(error)
                )
        await self._tidied()

    async def _tidied(self) -> None:
        """Nothing is left beside the object. Errors are logged, and the record still knows the upload then."""
        if not self._target.replace and (self._begun or self._making is not None):
            try:
                await _gone(self._store, self._target)
            except StreamerError as error:
                _left_behind(self._target, error)
                return
        await self._record.ended()

    async def _settled(self, made: Awaitable[Any], place: str, size: int) -> str:
        """The ETag of what is at the place, once that which makes it has ended. Where it failed, the object may be
        there all the same: an answer was lost, and the library's next try met what the first one had made."""
        failure: StreamerError | None = None
        try:
            result = await _asked(self._target, made)
        except StreamerError as error:
            failure = error
        if failure is not None:
            try:
                etag = await _found(self._store, self._target, place, size)
            except StreamerError:
                raise failure from None
            if etag is None:
                raise failure
            return etag
        if result is not None:
            return _etag(result)
        try:
            # A copy has an ETag of its own, with which nothing answers.
            return await _found(self._store, self._target, place, size) or ""
        except StreamerError as error:
            log.info("object not looked at", destination=str(self._target.address), error=str(error))
            return ""

    def _attributes(self, more: dict[str, str]) -> Any:
        return {"Content-Type": self._target.media_type, **self._target.members, **more}

    async def _blocks(self) -> AsyncIterator[memoryview]:
        """What the library iterates, and does not close: it holds nothing."""
        while True:
            block = await self._queue.get()
            if self._left:
                raise _Left
            if block is None:
                return
            yield block

    async def _give(self, block: memoryview | None) -> None:
        """Hands a block to the library; raises what it failed with meanwhile."""
        assert self._making is not None
        given = asyncio.ensure_future(self._queue.put(block))
        try:
            await asyncio.wait({given, self._making}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            given.cancel()
        if self._making.done() and self._making.exception() is not None:
            await _asked(self._target, self._making)


class _Left(Exception):
    """Raised into the library when an upload is left."""


def _noticed(ended: asyncio.Future[Any]) -> None:
    """Takes the error of a future that nobody waits for any more: asyncio complains about those that nobody took."""
    if not ended.cancelled():
        ended.exception()


async def _asked(target: Target, answer: Awaitable[T]) -> T:
    """The library's answer, its errors as our own."""
    try:
        return await answer
    except (BaseError, OSError, ValueError) as error:
        raise _refusal(target, error) from error


async def _head(store: ObjectStore, target: Target, place: str) -> Any:
    """What is known of the object at the place, None if there is none."""
    try:
        return await _asked(target, obstore.get_async(store, place, options={"head": True}))
    except NotFound:
        return None


async def _found(store: ObjectStore, target: Target, place: str, size: int) -> str | None:
    """The ETag of this very export's object of that length at the place, None if it is not there."""
    there = await _head(store, target, place)
    if there is None or there.meta["size"] != size:
        return None
    if not is_ours(target, {str(name): str(value) for name, value in there.attributes.items()}):
        return None
    return _etag(there.meta)


def _etag(answer: Any) -> str:
    return str(answer["e_tag"] or "").strip('"')


async def _gone(store: ObjectStore, target: Target) -> None:
    """Nothing is left beside the target."""
    try:
        await _asked(target, obstore.delete_async(store, _beside(target)))
    except NotFound:
        pass


def _left_behind(target: Target, error: StreamerError) -> None:
    log.warning("object left behind", place=f"{target.address.bucket}/{_beside(target)}", error=str(error))


def _beside(target: Target) -> str:
    return f"{target.address.key}.streamer-{target.token}"


def _exists(target: Target) -> Exists:
    return Exists(f"cannot write {target.address}: it exists already, and may not be replaced")


def _refusal(target: Target, error: Exception) -> StreamerError:
    begin = f"cannot write {target.address}"
    if isinstance(error, (AlreadyExistsError, PreconditionError)):
        return _exists(target)
    if isinstance(error, FileNotFoundError):
        return NotFound(f"{begin}: there is no bucket {target.address.bucket!r}")
    if isinstance(error, (PermissionDeniedError, UnauthenticatedError)):
        return NotPermitted(f"{begin}: the storage refuses; check the credentials and the bucket's policy")
    if isinstance(error, NotSupportedError):
        return Unsupported(f"{begin}: {_first_line(error)}")
    return StorageUnreachable(f"{begin}: {_first_line(error)}")


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:300]
