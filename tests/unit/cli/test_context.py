"""`streamer context`: a directory or standard input, as an archive that builders take."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from support import docker_build
from support.commandline import run
from support.docker_build import Builder

COMPRESSIONS = ("none", "gzip", "bzip2", "xz", "zstd")


@pytest.fixture
def context(tmp_path: Path) -> Path:
    made = tmp_path / "context"
    made.mkdir()
    for name, text in (("Dockerfile", "FROM scratch\nCOPY a /\n"), ("a", "a"), ("b", "b"), (".dockerignore", "b\n")):
        (made / name).write_text(text)
    return made


def names(archive: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        return opened.getnames()


def test_a_directory_into_a_pipe_or_a_file(context: Path, tmp_path: Path) -> None:
    piped = run("context", context)
    assert piped.returncode == 0, piped.stderr
    assert names(piped.stdout) == [".dockerignore", "Dockerfile", "a"]
    written = tmp_path / "c.tar.gz"
    assert run("context", context, "-o", written).returncode == 0
    assert written.read_bytes().startswith(b"\x1f\x8b\x08")
    with tarfile.open(written) as opened:
        assert opened.getnames() == names(piped.stdout)


def test_what_comes_in_passes(context: Path) -> None:
    compressed = run("context", context, "--compression", "zstd").stdout
    passed = run("context", "-", "--owner", "keep", input=compressed)
    assert passed.returncode == 0, passed.stderr
    assert passed.stdout == run("context", context).stdout
    assert names(run("context", "-", input=b"FROM scratch\n").stdout) == ["Dockerfile"]


@pytest.mark.parametrize(
    ("arguments", "input", "code", "said"),
    [
        (("/none",), b"", 3, "/none"),
        (("-",), b"", 2, "empty"),
        (("-",), b"\x1f\x8b\x08cut", 5, "truncated"),
        (("https://user:secret@example.com/x.git",), b"", None, "https://example.com/x.git"),
    ],
)
def test_a_failure_is_one_line(
    arguments: tuple[str, ...], input: bytes, code: int | None, said: str, tmp_path: Path
) -> None:
    output = tmp_path / "o.tar"
    done = run("context", *arguments, "-o", output, input=input)
    assert done.returncode == code if code is not None else done.returncode > 0, done
    assert said in done.stderr.decode()
    assert b"secret" not in done.stderr
    assert done.stderr.count(b"\n") == 1
    assert not output.exists()


@docker_build.needed
@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_the_docker_command_takes_it_for_an_archive(compression: str, context: Path) -> None:
    archive = run("context", context, "--compression", compression).stdout
    with Builder() as builder:
        assert builder.sent("-", stdin=archive) == archive


@pytest.mark.root
@pytest.mark.engine
@pytest.mark.skipif(shutil.which("buildah") is None, reason="needs buildah")
@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_buildah_builds_it(compression: str, context: Path, tmp_path: Path) -> None:
    archive = run("context", context, "--compression", compression).stdout
    where = ("--root", str(tmp_path / "root"), "--runroot", str(tmp_path / "run"), "--storage-driver", "vfs")
    built = subprocess.run(
        ["buildah", *where, "build", "--isolation", "chroot", "-q", "-"],
        input=archive,
        capture_output=True,
        timeout=120,
    )
    assert built.returncode == 0, built.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [((), "there is no Dockerfile in the context"), (("-f", "a/b"), "there is no Dockerfile a/b in the context")],
)
def test_no_dockerfile(tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    done = run("context", tmp_path, *options)
    assert (done.returncode, done.stdout, done.stderr.decode()) == (3, b"", f"streamer: {message}\n")
