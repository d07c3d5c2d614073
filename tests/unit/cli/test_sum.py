"""`streamer sum`, as a command: one line, the files, and what is no archive."""

from __future__ import annotations

import gzip
import json
import signal
import subprocess
import tarfile
from pathlib import Path

import pytest
from support.commandline import Terminal, run, start

SUM = "tarsum+sha256:626c4a2e9a467d65c33ae81f7f3dedd4de8ccaee72af73223c4bc4718cbc7bbd"


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as out:
        info = tarfile.TarInfo("file.txt")
        info.mode = 0
        out.addfile(info)
    return path


def test_one_line(archive: Path) -> None:
    done = run("sum", "--version", "tarsum", archive)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{SUM}\n".encode(), b"")
    assert run("sum", archive).stdout.startswith(b"tarsum.v1+sha256:")
    assert run("sum", "--version", "tarsum.dev", "--algorithm", "md5", archive).stdout.startswith(b"tarsum.dev+md5:")


def test_compressed_from_a_pipe(archive: Path) -> None:
    data = gzip.compress(archive.read_bytes())
    done = run("sum", "--version", "tarsum", "-", input=data, stdin=None)
    assert done.stdout == f"{SUM}\n".encode()


def test_files(archive: Path) -> None:
    done = run("sum", "--files", archive)
    total, line = done.stdout.decode().splitlines()
    hexadecimal, name = line.split("  ")
    assert (name, len(hexadecimal)) == ("file.txt", 64)
    assert json.loads(run("sum", "--files", "--json", archive).stdout) == {
        "sum": total,
        "files": [{"name": name, "sum": hexadecimal}],
    }


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("{}/none",), 3, "cannot read {}/none: No such file or directory"),
        (("{}",), 2, "is a directory: name an archive"),
        (("{}/cut",), 5, "{}/cut: the archive is truncated"),
        (("--algorithm", "x", "{}/a.tar"), 2, "cannot compute a TarSum with 'x'"),
        (("--version", "v9", "{}/a.tar"), 2, "'v9' is not one of 'tarsum', 'tarsum.v1', 'tarsum.dev'"),
    ],
)
def test_what_cannot_be(archive: Path, arguments: tuple[str, ...], status: int, message: str) -> None:
    folder = archive.parent
    (folder / "cut").write_bytes(archive.read_bytes()[:600])
    done = run("sum", *(each.format(folder) for each in arguments))
    assert (done.returncode, done.stdout) == (status, b"")
    assert message.format(folder) in done.stderr.decode()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_the_terminal_as_it_was(number: signal.Signals) -> None:
    member = tarfile.TarInfo("endless")
    member.size = 1 << 30
    with Terminal() as terminal, start("sum", "-", stdin=subprocess.PIPE, stderr=terminal.slave) as process:
        assert process.stdin is not None
        process.stdin.write(member.tobuf() + bytes(1 << 18))
        process.stdin.flush()
        terminal.wait_for(b"/s")  # the rate: the bar is there, and reading waits for more
        process.send_signal(number)
        assert (process.wait(30), process.stdout.read() if process.stdout else None) == (128 + number, b"")
        said = b"terminated" if number == signal.SIGTERM else b"interrupted"
        assert b"streamer: " + said in terminal.drain()
        assert b"\x1b[?25h" in terminal.shown.rpartition(b"\x1b[?25l")[2], "the cursor stays hidden"
