"""`streamer export -o s3://…` as a person runs it, into a real server."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import storage
from support.commandline import Terminal, run, start
from support.faults import gated
from support.storage import S3Kept

SIZE = 24 << 20


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Kept]:
    with storage.seaweedfs(tmp_path_factory.mktemp("weed")) as opened, pytest.MonkeyPatch.context() as patch:
        for name, value in opened.environment.items():
            patch.setenv(name, value)
        yield opened


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one image of one layer of 24 MiB that nothing compresses."""
    folder = tmp_path_factory.mktemp("state")
    (folder / "big").write_bytes(os.urandom(SIZE))
    with tarfile.open(folder / "rootfs.tar", "w") as made:
        made.add(folder / "big", "big")
    assert run("--state", folder / "state", "import", folder / "rootfs.tar", "--name", "big:1").returncode == 0
    return folder / "state"


def kept_bytes(kept: S3Kept, key: str) -> bytes | None:
    return asyncio.run(kept.read(key))


@pytest.mark.root
@pytest.mark.parametrize("kind", ["rootfs", "image"])
def test_an_object_is_what_a_file_would_be(kept: S3Kept, state: Path, tmp_path: Path, kind: str) -> None:
    export = ("export", kind, "big:1", "--state", state)
    assert run(*export, "-o", tmp_path / "a.tar").returncode == 0
    done = run(*export, "-o", f"s3://{kept.bucket}/{kind}/a.tar", "--part-size", "5")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert kept_bytes(kept, f"{kind}/a.tar") == (tmp_path / "a.tar").read_bytes()
    said = asyncio.run(kept.metadata(f"{kind}/a.tar"))
    assert (said["kind"], said["engine"], said["content-type"]) == (kind, "local", "application/x-tar")
    assert asyncio.run(kept.left()) == []


def test_compressed_as_its_name_says(kept: S3Kept, state: Path) -> None:
    assert run("export", "image", "big:1", "--state", state, "-o", f"s3://{kept.bucket}/a.tar.zst").returncode == 0
    data = kept_bytes(kept, "a.tar.zst")
    assert data is not None
    assert data[:4] == b"\x28\xb5\x2f\xfd"
    assert asyncio.run(kept.metadata("a.tar.zst"))["content-type"] == "application/zstd"


@pytest.mark.parametrize(
    ("uri", "code", "message"),
    [
        ("s3://missing/a.tar", 3, "cannot write s3://missing/a.tar: there is no bucket 'missing'"),
        ("s3://exports/there.tar", 4, "cannot write s3://exports/there.tar: it exists already"),
    ],
)
def test_refusals(kept: S3Kept, state: Path, uri: str, code: int, message: str) -> None:
    asyncio.run(kept.write("there.tar", b"before"))
    done = run("export", "image", "big:1", "--state", state, "-o", uri, "--no-overwrite")
    assert (done.returncode, done.stdout) == (code, b"")
    assert message in done.stderr.decode()
    assert kept_bytes(kept, "there.tar") == b"before"


def test_a_file_is_not_replaced_either(state: Path, tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"before")
    done = run("export", "image", "big:1", "--state", state, "-o", tmp_path / "a.tar", "--no-overwrite")
    assert done.returncode == 4
    assert (tmp_path / "a.tar").read_bytes() == b"before"


def test_interrupted_it_leaves_nothing(kept: S3Kept, state: Path) -> None:
    command = ("export", "image", "big:1", "--state", state, "-o", f"s3://{kept.bucket}/cut.tar", "--part-size", "5")
    with gated(kept.url, 2) as gate, start(*command, environment={"AWS_ENDPOINT_URL": gate.way.url}) as process:
        gate.reached()
        assert asyncio.run(kept.left()) == ["cut.tar"]
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        assert process.returncode == 130
        assert kept_bytes(kept, "cut.tar") is None
        assert asyncio.run(kept.left()) == []


def test_progress_on_a_terminal(kept: S3Kept, state: Path) -> None:
    command = ("export", "image", "big:1", "--state", state, "-o", f"s3://{kept.bucket}/shown.tar", "--part-size", "5")
    with Terminal() as terminal, start(*command, stderr=terminal.slave) as process:
        shown = terminal.until_end_of(process)
    assert process.returncode == 0
    data = kept_bytes(kept, "shown.tar")
    assert data is not None
    assert b"big-1.tar" in shown
    assert hashlib.sha256(data).digest()
