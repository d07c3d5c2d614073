"""One object on its way to S3: in parts, or whole in one request where it is no longer than a part.

Completing is the one call that must not be repeated blindly: where its answer is lost, what is there is looked at. An
object is known as this export's by its `export` metadata, and as right by its length and its ETag.
"""

from __future__ import annotations

import base64
import hashlib
import re
import time
from functools import partial
from typing import Any

import anyio
import anyio.to_thread

from streamer.errors import NotFound, NotPermitted, StorageFailed, StreamerError
from streamer.log import logger
from streamer.sinks import calls
from streamer.sinks.base import Begun, Gone, Part, Record, Target
from streamer.sinks.calls import Calls, Object
from streamer.sinks.metadata import DIGEST, SIZE
from streamer.sinks.patience import Transient

log = logger("streamer.sinks")

_MD5 = re.compile(r"[0-9a-f]{32}(-[0-9]+)?")
SKEW = 2.0
"""Seconds by which the comparison of two clocks may be wrong."""
_ABORTS = 5
_HASHING = 4
"""Threads of an upload's own: look-ups that hang must not hold it up."""


class Multipart:
    """The upload of one object; `abort` unless `completed`. Parts may be put in any order and at the same time."""

    def __init__(self, calls: Calls, target: Target, record: Record) -> None:
        self.completed = False
        self._calls = calls
        self._target = target
        self._record = record
        self._where: dict[str, Any] = {"Key": target.address.key}
        self._upload: str | None = None
        self._creating = anyio.Lock()
        self._unsure: float | None = None
        """Since when there may be an upload whose ID never arrived."""
        self._parts: dict[int, Part] = {}
        self._plain = True
        """Whether ETags are MD5s, as they are unless the storage encrypts with keys that it does not hold itself."""
        self._whole: memoryview | None = None
        self._hashing = anyio.CapacityLimiter(_HASHING)

    async def resume(self, begun: Begun) -> None:
        """Goes on with an upload that is there, and with those of its parts that the storage still has."""
        there: dict[int, tuple[str, int]] = {}
        more: dict[str, Any] = {}
        try:
            while True:
                answer = await self._call("list_parts", UploadId=begun.upload, **more)
                for part in answer.get("Parts", ()):
                    there[part["PartNumber"]] = part["ETag"].strip('"'), part["Size"]
                if not answer.get("IsTruncated"):
                    break
                more = {"PartNumberMarker": answer["NextPartNumberMarker"]}
        except (Gone, NotFound):
            return
        except NotPermitted:
            # Who may not list believes the record: a part that is not there fails the completion.
            there = {number: (part.etag, part.size) for number, part in begun.parts.items()}
        self._upload = begun.upload
        self._parts = {n: part for n, part in begun.parts.items() if there.get(n) == (part.etag, part.size)}

    async def put(self, number: int, data: memoryview, *, last: bool) -> None:
        if number == 1 and last and self._upload is None:
            self._whole = data
            return
        md5 = await self._md5(data)
        known = self._parts.get(number)
        if known is not None and (known.md5, known.size) == (md5.hex(), len(data)):
            return
        upload = await self._begun()
        failures = 0
        while True:
            answer = await self._call(
                "upload_part", body=data, UploadId=upload, PartNumber=number, ContentMD5=base64.b64encode(md5).decode()
            )
            etag = str(answer.get("ETag", "")).strip('"')
            if _encrypted(answer):
                self._plain = False
            if etag and (etag == md5.hex() or not self._plain or not _MD5.fullmatch(etag)):
                break
            failures += 1
            await self._calls.patience.bear(
                failures,
                Transient(StorageFailed(f"{self._cannot}: part {number} arrived as other bytes than were sent")),
            )
        self._parts[number] = Part(number, len(data), etag, md5.hex())
        await self._record.stored(self._parts[number])

    async def complete(self, size: int, digest: str) -> str:
        if self._whole is not None:
            made = await self._put_whole(self._whole, digest)
            expected = (await self._md5(self._whole)).hex()
        else:
            made, expected = await self._joined(), self._composite()
        etag = await self._checked(made, expected, size)
        self.completed = True
        await self._record.ended()
        return etag

    async def abort(self) -> None:
        """Takes back everything that is there of an upload that was not completed. Errors are logged."""
        left = {self._upload} if self._upload is not None else set()
        try:
            if self._unsure is not None:
                left |= await self._lost(self._unsure)
            for upload in left:
                await self._taken_back(upload)
        except StreamerError as error:
            log.error(
                "upload left behind", destination=str(self._target.address), uploads=sorted(left), error=str(error)
            )
            return
        await self._record.ended()

    async def _md5(self, data: memoryview) -> bytes:
        made = await anyio.to_thread.run_sync(partial(hashlib.md5, data, usedforsecurity=False), limiter=self._hashing)
        return made.digest()

    @property
    def _cannot(self) -> str:
        return f"cannot write {self._target.address}"

    async def _call(self, operation: str, **more: Any) -> dict[str, Any]:
        return await self._calls.call("write", self._target.address, operation, **self._where, **more)

    async def _begun(self) -> str:
        """The ID of the upload, which is made with the first part."""
        async with self._creating:
            if self._upload is None:
                self._unsure = time.time()
                failures = 0
                while self._upload is None:
                    try:
                        answer = await self._call("create_multipart_upload", once=True, **self._said({}))
                        self._upload = str(answer["UploadId"])
                    except Transient as failure:
                        failures += 1
                        await self._calls.patience.bear(failures, failure)
                await self._record.begun(self._upload)
                if failures:
                    for upload in await self._lost(self._unsure) - {self._upload}:
                        await self._taken_back(upload)
                self._unsure = None
            return self._upload

    def _said(self, more: dict[str, str]) -> dict[str, Any]:
        return {"ContentType": self._target.media_type, "Metadata": {**self._target.members, **more}}

    def _condition(self) -> dict[str, str]:
        return {} if self._target.replace else {"IfNoneMatch": "*"}

    async def _put_whole(self, data: memoryview, digest: str) -> str:
        md5 = base64.b64encode(await self._md5(data)).decode()
        said = self._said({DIGEST: digest, SIZE: str(len(data))})
        try:
            answer = await self._call("put_object", body=data, ContentMD5=md5, **said, **self._condition())
        except StreamerError as error:
            return await self._settled(error)
        return str(answer.get("ETag", "")).strip('"')

    async def _joined(self) -> str:
        """The ETag with which the storage answers that the parts are one object now."""
        parts = [{"PartNumber": part.number, "ETag": f'"{part.etag}"'} for _, part in sorted(self._parts.items())]
        failures = 0
        while True:
            try:
                answer = await self._call(
                    "complete_multipart_upload",
                    once=True,
                    UploadId=self._upload,
                    MultipartUpload={"Parts": parts},
                    **self._condition(),
                )
            except Transient as failure:
                failures += 1
                try:
                    await self._calls.patience.bear(failures, failure)
                except StreamerError as error:
                    assert self._upload is not None
                    await self._taken_back(self._upload)  # from here on it cannot appear any more
                    return await self._settled(error)
            except StreamerError as error:
                return await self._settled(error)
            else:
                return str(answer.get("ETag", "")).strip('"')

    async def _settled(self, error: StreamerError) -> str:
        """The ETag of this export's object, which may be there although its making failed; or the error."""
        try:
            there = await calls.found(self._calls, self._target)
        except StreamerError:
            raise error from None
        if there is None:
            raise error
        return there.etag

    def _composite(self) -> str:
        """The ETag that S3 gives an object of these parts; empty where they are not MD5s."""
        ordered = [part for _, part in sorted(self._parts.items())]
        if not all(part.etag == part.md5 for part in ordered):
            return ""
        joined = b"".join(bytes.fromhex(part.md5) for part in ordered)
        return f"{hashlib.md5(joined, usedforsecurity=False).hexdigest()}-{len(ordered)}"

    async def _checked(self, made: str, expected: str, size: int) -> str:
        """The object's ETag. One that is not what was sent is deleted, and StorageFailed raised."""
        there: Object | None = None
        try:
            there = await calls.found(self._calls, self._target)
        except StreamerError as error:
            if made != expected:
                raise
            # The storage has said that it is right; who may only write cannot ask again.
            log.info("object not looked at", destination=str(self._target.address), error=str(error))
        if there is None:
            if expected and made != expected and _MD5.fullmatch(made) and self._plain:
                raise StorageFailed(f"{self._cannot}: the storage says that it kept other bytes than were sent")
            return made  # it was replaced by another already, which is not ours to judge
        wrong = expected and _MD5.fullmatch(there.etag) and self._plain and expected not in (there.etag, made)
        if there.size != size or wrong:
            await self._call("delete_object")
            raise StorageFailed(f"{self._cannot}: what it kept are other bytes than were sent; it was deleted")
        return there.etag

    async def _lost(self, since: float) -> set[str]:
        """Uploads whose ID never arrived: those to the same key that began while one was asked for."""
        try:
            found = await calls.uploads(self._calls, self._target.address)
        except (NotPermitted, NotFound):
            return set()
        begin = since + self._calls.ahead - SKEW
        return {upload for upload, began in found if began >= begin}

    async def _taken_back(self, upload: str) -> None:
        """Aborts an upload until it is gone: a part that arrives at that very moment can outlive the first abort."""
        failures = 0
        while True:
            try:
                await self._call("abort_multipart_upload", once=True, UploadId=upload)
                if not await self._there(upload):
                    return
            except (Gone, NotFound):
                return
            except Transient as caught:
                failure = caught
            except StreamerError as error:
                failure = Transient(error)
            else:
                failure = Transient(StorageFailed(f"cannot take back an upload to {self._target.address}"))
            failures += 1
            if failures == _ABORTS:
                raise failure.error
            await self._calls.patience.bear(failures, failure)

    async def _there(self, upload: str) -> bool:
        """Whether an upload that was aborted is there still. Who may not ask believes the abort."""
        try:
            await self._call("list_parts", once=True, UploadId=upload, MaxParts=1)
        except NotPermitted:
            return False
        return True


def _encrypted(answer: dict[str, Any]) -> bool:
    """Whether ETags are no MD5s: with keys of a key service, or of the client's own."""
    return answer.get("ServerSideEncryption") in ("aws:kms", "aws:kms:dsse") or "SSECustomerAlgorithm" in answer
