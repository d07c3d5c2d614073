"""`streamer context` and `streamer build` of git repositories and URLs."""

from __future__ import annotations

import asyncio
import io
import os
import tarfile
from pathlib import Path

import pytest
from support.commandline import start
from support.gits import repository, served


async def ran(*arguments: object, allow: str = "127.0.0.1", **environment: str) -> tuple[int, bytes, str]:
    process = start(*arguments, environment={"STREAMER_FETCH_ALLOW": allow, **environment})
    output, errors = await asyncio.to_thread(process.communicate, timeout=120)
    return process.returncode, output, errors.decode()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    files = {
        "Dockerfile": "FROM scratch\nCOPY a /a\n",
        "a": "text",
        "sub/Dockerfile": "FROM scratch\nCOPY b /\n",
        "sub/b": "x",
    }
    repository(tmp_path / "served/r.git", files)
    with tarfile.open(tmp_path / "served/context.tar.gz", "w:gz") as out:
        out.add(tmp_path / "served/r.git/Dockerfile", "Dockerfile")
        out.add(tmp_path / "served/r.git/a", "a")
    return tmp_path / "served"


def names(data: bytes) -> set[str]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return {name for name in archive.getnames() if not name.startswith(".git")}


async def test_contexts(root: Path, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    async with served(root) as url:
        status, output, errors = await ran("context", f"{url}/r.git", TMPDIR=str(scratch))
        assert (status, errors) == (0, "")
        assert names(output) == {"Dockerfile", "a", "sub", "sub/Dockerfile", "sub/b"}
        assert names((await ran("context", f"{url}/r.git#:sub", TMPDIR=str(scratch)))[1]) == {"Dockerfile", "b"}
    async with served(root, dumb=True) as url:
        assert names((await ran("context", f"{url}/context.tar.gz"))[1]) == {"Dockerfile", "a"}
    assert os.listdir(scratch) == []


@pytest.mark.parametrize("source", ["r.git", "r.git#:sub", "context.tar.gz"])
async def test_builds(root: Path, tmp_path: Path, source: str) -> None:
    async with served(root, dumb=source.endswith("gz")) as url:
        status, output, errors = await ran(
            "build", f"{url}/{source}", "-t", "made:1", "--state", tmp_path / "state", "-q"
        )
    assert (status, errors) == (0, "")
    assert output.startswith(b"sha256:")
    assert not list((tmp_path / "state/staging").iterdir())


@pytest.mark.parametrize("command", ["context", "build"])
@pytest.mark.parametrize(
    ("source", "status", "message"),
    [
        ("{url}/none.git", 10, "cannot clone"),
        ("{url}/r.git#none", 10, "cannot clone"),
        ("{url}/r.git#:none", 3, "there is no directory 'none'"),
        ("{url}/r.git#:a", 2, "is no directory"),
        ("{url}/r.git#-x", 2, "is no name of a branch"),
        ("{url}/missing.tar", 10, "cannot fetch"),
        ("http://10.0.0.1/x.git", 8, "10.0.0.1 is not a public address"),
        ("http://10.0.0.1/x.tar", 8, "10.0.0.1 is not a public address"),
        ("ext::sh", 3, "ext::sh"),
    ],
)
async def test_what_cannot_be(root: Path, tmp_path: Path, command: str, source: str, status: int, message: str) -> None:
    state = ("--state", tmp_path / "state") if command == "build" else ()
    async with served(root) as url:
        found, output, errors = await ran(command, source.format(url=url.replace("://", "://u:secret@")), *state)
    assert (found, output) == (status, b""), errors
    assert message in errors
    assert "secret" not in errors
