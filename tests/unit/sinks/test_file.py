"""Files: what replaces one is no more open to others than it was; what a dead process left is found by its name."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.planned import Planned

from streamer.errors import InvalidRequest
from streamer.export.exporter import exporter
from streamer.export.plan import Options
from streamer.sinks.address import parse
from streamer.sinks.base import Record, Target
from streamer.sinks.delivery import Manner, deliver
from streamer.sinks.file import Files
from streamer.sinks.metadata import target


@pytest.mark.parametrize(
    ("before", "after"), [(None, 0o644), (0o600, 0o600), (0o640, 0o640), (0o666, 0o644), (0o4755, 0o644)]
)
async def test_a_private_file_stays_private(tmp_path: Path, before: int | None, after: int) -> None:
    path = tmp_path / "a.tar"
    if before is not None:
        path.write_bytes(b"old")
        path.chmod(before)
    address, plan = parse(str(path)), Planned(b"new" * 1000).plan(None, Options())
    umask = os.umask(0o022)
    try:
        async with exporter() as exports:
            await deliver(
                exports,
                plan,
                Files(),
                lambda size, digest: target(
                    address, plan, token="t", engine="memory", size=size, digest=digest, replace=True
                ),
                manner=Manner(5 << 20, 1),
            )
    finally:
        os.umask(umask)
    assert path.read_bytes() == b"new" * 1000
    assert path.stat().st_mode & 0o7777 == after


_DYING = """
import asyncio, errno, os, signal, sys
from streamer.sinks.address import parse
from streamer.sinks.base import Record, Target
from streamer.sinks.file import Files

path, moment = sys.argv[1:]
opened = os.open

class Telling(Record):
    async def begun(self, upload):
        os.write(1, upload.encode())

def nameless(path, flags, *more, **named):
    if flags & os.O_TMPFILE == os.O_TMPFILE:
        raise OSError(errno.EOPNOTSUPP, "not here")
    return opened(path, flags, *more, **named)

def die(*given, **named):
    os.kill(os.getpid(), signal.SIGKILL)

async def main():
    async with Files().open(Target(parse(path), "token", ""), Telling(), step=1000, concurrency=1) as upload:
        await upload.put(1, memoryview(b"x" * 1000), last=True)
        if moment == "written":
            die()
        await upload.complete(1000, "")

if moment == "written":
    os.open = nameless
else:
    os.rename = die
asyncio.run(main())
"""


@pytest.mark.parametrize("moment", ["written", "named"])
@pytest.mark.parametrize("swept", [True, False], ids=["swept", "begun anew"])
async def test_what_a_dead_process_left_is_found_by_its_name(tmp_path: Path, moment: str, swept: bool) -> None:
    """Where the file system wants names, and in the instant between two names."""
    path = tmp_path / "a.tar"
    path.write_bytes(b"before")
    died = subprocess.run([sys.executable, "-c", _DYING, str(path), moment], stdout=subprocess.PIPE, check=False)
    assert died.returncode == -signal.SIGKILL
    assert sorted(os.listdir(tmp_path)) == sorted([died.stdout.decode(), "a.tar"])
    storage, target = Files(), Target(parse(str(path)), "token", "")
    if swept:
        await storage.sweep(Target(parse(str(path)), "another", ""), upload="another")
        assert len(os.listdir(tmp_path)) == 2
        await storage.sweep(target, upload=died.stdout.decode())
        await storage.sweep(target, upload=died.stdout.decode())  # once more is no failure
    else:
        async with storage.open(target, Record(), step=1000, concurrency=1) as upload:
            await upload.put(1, memoryview(b"after"), last=True)
            await upload.complete(5, "")
    assert os.listdir(tmp_path) == ["a.tar"]
    assert path.read_bytes() == (b"before" if swept else b"after")


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


def _device(path: Path) -> None:
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("devices are made by root only")


@pytest.mark.parametrize(
    ("make", "kind"),
    [(Path.mkdir, "a directory"), (os.mkfifo, "a named pipe"), (_socket, "a socket"), (_device, "a device")],
    ids=["directory", "pipe", "socket", "device"],
)
async def test_only_a_file_is_replaced(
    make: Callable[[Path], object], kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither at the beginning, nor where it came after that."""
    monkeypatch.chdir(tmp_path)  # the path of a socket is short
    make(Path("a"))
    before = os.lstat("a")
    target = Target(parse(str(tmp_path / "a")), "token", "")
    with pytest.raises(InvalidRequest, match=f"it is {kind}; name a file"):
        await Files().refuse_existing(target)
    with pytest.raises(InvalidRequest, match=f"it is {kind}; name a file"):
        async with Files().open(target, Record(), step=1000, concurrency=1):
            pass
    assert os.listdir() == ["a"]
    assert os.lstat("a") == before


async def test_a_link_is_replaced_and_not_what_it_names(tmp_path: Path) -> None:
    (tmp_path / "there").write_bytes(b"before")
    (tmp_path / "a").symlink_to("there")
    target = Target(parse(str(tmp_path / "a")), "token", "")
    await Files().refuse_existing(target)
    async with Files().open(target, Record(), step=1000, concurrency=1) as upload:
        await upload.put(1, memoryview(b"after"), last=True)
        await upload.complete(5, "")
    assert (tmp_path / "there").read_bytes() == b"before"
    assert not (tmp_path / "a").is_symlink()
    assert (tmp_path / "a").read_bytes() == b"after"
