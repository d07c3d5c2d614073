"""What an export into object storage holds in memory: parts times how many are under way, whatever its length."""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import storage
from support.commandline import run, start
from support.storage import S3Kept

pytestmark = pytest.mark.slow

MiB = 1 << 20
PART, CONCURRENCY = 5, 3
BESIDE = 24
"""MiB that buffers of connections and the allocator's own waste may take besides."""


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Kept]:
    with storage.seaweedfs(tmp_path_factory.mktemp("weed")) as opened, pytest.MonkeyPatch.context() as patch:
        for name, value in opened.environment.items():
            patch.setenv(name, value)
        yield opened


def peak(state: Path, image: str, uri: str) -> int:
    """MiB that an export held at most."""
    options = ("--part-size", PART, "--concurrency", CONCURRENCY)
    process = start(
        "export", "image", image, "--state", state, "-o", uri, *options,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_maxrss // 1024


def test_memory_does_not_depend_on_the_length(kept: S3Kept, tmp_path: Path) -> None:
    state = tmp_path / "state"
    block = os.urandom(MiB)
    for name, count in (("short", 1), ("long", 160)):
        with open(tmp_path / name, "wb") as file:
            for number in range(count):
                file.write(number.to_bytes(8, "big") + block[8:])
        with tarfile.open(tmp_path / f"{name}.tar", "w") as made:
            made.add(tmp_path / name, name)
        assert run("--state", state, "import", tmp_path / f"{name}.tar", "--name", f"{name}:1").returncode == 0
    base = peak(state, "short:1", f"s3://{kept.bucket}/short.tar")
    long = peak(state, "long:1", f"s3://{kept.bucket}/long.tar")
    assert long - base <= PART * CONCURRENCY + BESIDE, (base, long)
    assert run("export", "image", "long:1", "--state", state, "-o", tmp_path / "long.saved").returncode == 0
    data = asyncio.run(kept.read("long.tar"))
    assert data is not None
    with open(tmp_path / "long.saved", "rb") as saved:
        assert hashlib.file_digest(saved, "sha256").digest() == hashlib.sha256(data).digest()
