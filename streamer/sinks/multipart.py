"""One object on its way to S3: in parts, or whole in one request where it is no longer than a part.

Completing is the one call that must not be repeated blindly: where its answer is lost, what is there is looked at. An
object is known as this export's by its `export` metadata, and as right by its length and its ETag.
"""

from __future__ import annotations

import time
from typing import Any

import anyio
import anyio.to_thread

from streamer.errors import NotFound, NotPermitted, StorageFailed, StreamerError
from streamer.log import logger
from streamer.sinks import calls, checksums
from streamer.sinks.base import Begun, Gone, Part, Record, Target
from streamer.sinks.calls import Calls, Object
from streamer.sinks.checksums import Checksum, etag_of, looks_like_md5
from streamer.sinks.metadata import DIGEST, SIZE
from streamer.sinks.patience import Transient

log = logger("streamer.sinks")

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
        self._checksums = False
        """Whether the storage has said that it compares parts with their CRC32C; until then with their MD5."""
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
        parts = {n: part for n, part in begun.parts.items() if there.get(n) == (part.etag, part.size)}
        if not parts:
            # Nothing to go on with; and which checksums it was begun with, not every storage says again.
            await self._abandoned({begun.upload})
            return
        self._upload, self._parts = begun.upload, parts
        self._checksums = any(part.checksum.startswith("crc32c:") for part in parts.values())

    async def put(self, number: int, data: memoryview, *, last: bool) -> None:
        if number == 1 and last and self._upload is None:
            self._whole = data
            return
        upload = await self._begun()
        checksum = checksums.crc32c(data) if self._checksums else await self._md5(data)
        known = self._parts.get(number)
        if known is not None and (known.checksum, known.size) == (str(checksum), len(data)):
            return
        failures = 0
        while True:
            answer = await self._call("upload_part", body=data, UploadId=upload, PartNumber=number, **checksum.sent)
            if _encrypted(answer):
                self._plain = False
            if not checksum.denied(answer, plain=self._plain):
                break
            failures += 1
            await self._calls.patience.bear(
                failures,
                Transient(StorageFailed(f"{self._cannot}: part {number} arrived as other bytes than were sent")),
            )
        self._parts[number] = Part(number, len(data), etag_of(answer), str(checksum))
        await self._record.stored(self._parts[number])

    async def complete(self, size: int, digest: str) -> str:
        if self._whole is not None:
            made = await self._put_whole(self._whole, digest)
            expected = (await self._md5(self._whole)).raw.hex()
        else:
            made, expected = await self._joined(), self._composite()
        etag = await self._checked(made, expected, size)
        self.completed = True
        await self._record.ended()
        return etag

    async def abort(self) -> None:
        """Takes back everything that is there of an upload that was not completed. Errors are logged."""
        left = {self._upload} if self._upload is not None else set()
        if await self._abandoned(left, since=self._unsure):
            await self._record.ended()

    async def _abandoned(self, uploads: set[str], since: float | None = None) -> bool:
        """Whether nothing is left of these uploads, and of those begun `since` whose ID never arrived. Errors are
        logged."""
        left = set(uploads)
        try:
            if since is not None:
                left |= await self._lost(since)
            for upload in left:
                await self._taken_back(upload)
        except StreamerError as error:
            log.error(
                "upload left behind", destination=str(self._target.address), uploads=sorted(left), error=str(error)
            )
            return False
        return True

    async def _md5(self, data: memoryview) -> Checksum:
        return await anyio.to_thread.run_sync(checksums.md5, data, limiter=self._hashing)

    @property
    def _cannot(self) -> str:
        return f"cannot write {self._target.address}"

    async def _call(self, operation: str, **more: Any) -> dict[str, Any]:
        return await self._calls.call("write", self._target.address, operation, **self._where, **more)

    async def _begun(self) -> str:
        """The ID of the upload, which is made with the first part."""
        async with self._creating:
            if self._upload is None:
                await self._record.asking()
                self._unsure = time.time()
                failures = 0
                while self._upload is None:
                    try:
                        answer = await self._call(
                            "create_multipart_upload",
                            once=True,
                            ChecksumAlgorithm=checksums.ALGORITHM,
                            **self._said({}),
                        )
                        self._upload = str(answer["UploadId"])
                        self._checksums = _compares(answer)
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
        md5 = await self._md5(data)
        said = self._said({DIGEST: digest, SIZE: str(len(data))})
        try:
            answer = await self._call("put_object", body=data, **md5.sent, **said, **self._condition())
        except StreamerError as error:
            return await self._settled(error)
        return etag_of(answer)

    async def _joined(self) -> str:
        """The ETag with which the storage answers that the parts are one object now."""
        parts = [
            {"PartNumber": part.number, "ETag": f'"{part.etag}"', **checksums.parse(part.checksum).completing}
            for _, part in sorted(self._parts.items())
        ]
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
                return etag_of(answer)

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
        """The ETag that S3 gives an object of these parts; empty where theirs are not known to be MD5s."""
        ordered = [part for _, part in sorted(self._parts.items())]
        if not all(part.checksum == f"md5:{part.etag}" for part in ordered):
            return ""
        return checksums.composite([part.etag for part in ordered])

    async def _checked(self, made: str, expected: str, size: int) -> str:
        """The object's ETag. One that is not what was sent is deleted, and StorageFailed raised."""
        there: Object | None = None
        try:
            there = await calls.found(self._calls, self._target)
        except StreamerError as error:
            if expected and made != expected:
                raise
            # The storage has compared every part; who may only write cannot ask again.
            log.info("object not looked at", destination=str(self._target.address), error=str(error))
        if there is None:
            if expected and made != expected and looks_like_md5(made) and self._plain:
                raise StorageFailed(f"{self._cannot}: the storage says that it kept other bytes than were sent")
            return made  # it was replaced by another already, which is not ours to judge
        wrong = expected and looks_like_md5(there.etag) and self._plain and expected not in (there.etag, made)
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


def _compares(answer: dict[str, Any]) -> bool:
    """Whether an upload's parts are compared with checksums of the kind that was asked for."""
    return answer.get("ChecksumAlgorithm") == checksums.ALGORITHM


def _encrypted(answer: dict[str, Any]) -> bool:
    """Whether ETags are no MD5s: with keys of a key service, or of the client's own."""
    return answer.get("ServerSideEncryption") in ("aws:kms", "aws:kms:dsse") or "SSECustomerAlgorithm" in answer
