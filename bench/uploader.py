"""A local file to S3 with the client library alone: 16 MiB parts, four at a time, as streamer's defaults are.

`python -m bench.uploader bare|default FILE` prints as JSON what it took; `… ready` says whether the bucket is there.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import resource
import sys
import time

from aiobotocore.config import AioConfig
from aiobotocore.session import get_session

BUCKET, KEY = "bench", "plain.tar"
PART, CONCURRENCY = 16 << 20, 4

BARE = {"payload_signing_enabled": False, "addressing_style": "path"}
"""Neither signed nor with checksums: the fastest that the library can do."""


def config(manner: str) -> AioConfig:
    if manner == "bare":
        return AioConfig(s3=BARE, request_checksum_calculation="when_required", max_pool_connections=64)
    return AioConfig(s3={"addressing_style": "path"}, max_pool_connections=64)


async def upload(manner: str, path: str) -> None:
    async with get_session().create_client("s3", config=config(manner)) as client:
        where = {"Bucket": BUCKET, "Key": KEY}
        upload = (await client.create_multipart_upload(**where))["UploadId"]
        count = -(-(await asyncio.to_thread(os.path.getsize, path)) // PART)
        parts: list[dict[str, object]] = []
        numbers = iter(range(1, count + 1))

        async def work() -> None:
            for number in numbers:
                data = await asyncio.to_thread(read, path, (number - 1) * PART)
                answer = await client.upload_part(**where, UploadId=upload, PartNumber=number, Body=io.BytesIO(data))
                parts.append({"PartNumber": number, "ETag": answer["ETag"]})

        async with asyncio.TaskGroup() as tasks:
            for _ in range(CONCURRENCY):
                tasks.create_task(work())
        parts.sort(key=lambda part: str(part["PartNumber"]).zfill(6))
        await client.complete_multipart_upload(**where, UploadId=upload, MultipartUpload={"Parts": parts})


def read(path: str, offset: int) -> bytes:
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read(PART)


async def ready() -> int:
    fast = AioConfig(connect_timeout=1, read_timeout=1, retries={"total_max_attempts": 1})
    async with get_session().create_client("s3", config=fast) as client:
        try:
            await client.head_bucket(Bucket=BUCKET)
        except Exception:
            return 1
    return 0


def main(arguments: list[str]) -> int:
    if arguments == ["ready"]:
        return asyncio.run(ready())
    start, spent = time.perf_counter(), time.process_time()
    asyncio.run(upload(*arguments))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    print(json.dumps({"seconds": time.perf_counter() - start, "cpu": time.process_time() - spent, "peak": peak}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
