from __future__ import annotations

import errno
import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from streamer.cli import output
from streamer.cli.output import destination
from streamer.errors import InvalidRequest, NotFound, StorageFull, StreamerError


@pytest.fixture(params=["unnamed", "named"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With O_TMPFILE, and on a file system that does not have it."""
    if request.param == "named":
        original = os.open

        def refusing(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
            if flags & os.O_TMPFILE == os.O_TMPFILE:
                raise OSError(errno.EOPNOTSUPP, "no O_TMPFILE here")
            return original(path, flags, *args, **kwargs)

        monkeypatch.setattr(os, "open", refusing)


@pytest.mark.usefixtures("way")
class TestFile:
    async def test_appears_only_when_complete(self, tmp_path: Path) -> None:
        target = tmp_path / "a.tar"
        async with destination(str(target), "x.tar") as out:
            await out.write(b"one")
            await out.write(b"two")
            assert not target.exists()
            await out.commit()
            assert target.read_bytes() == b"onetwo"
        assert os.listdir(tmp_path) == ["a.tar"]

    @pytest.mark.parametrize("error", [StreamerError("x"), KeyboardInterrupt()], ids=["error", "interrupt"])
    async def test_nothing_is_left_by_a_failure(self, tmp_path: Path, error: BaseException) -> None:
        with pytest.raises(type(error)):
            async with destination(str(tmp_path / "a.tar"), "x.tar") as out:
                await out.write(b"one")
                raise error
        assert os.listdir(tmp_path) == []

    async def test_nothing_is_left_by_a_cancellation(self, tmp_path: Path) -> None:
        with anyio.CancelScope() as scope:
            async with destination(str(tmp_path / "a.tar"), "x.tar") as out:
                await out.write(b"one")
                scope.cancel()
                await anyio.lowlevel.checkpoint()
        assert scope.cancelled_caught
        assert os.listdir(tmp_path) == []

    async def test_what_was_there_stays_until_the_end(self, tmp_path: Path) -> None:
        target = tmp_path / "a.tar"
        target.write_bytes(b"old")
        target.chmod(0o600)
        with pytest.raises(StreamerError):
            async with destination(str(target), "x.tar") as out:
                await out.write(b"new")
                raise StreamerError("x")
        assert target.read_bytes() == b"old"
        async with destination(str(target), "x.tar") as out:
            await out.write(b"new")
            await out.commit()
        assert target.read_bytes() == b"new"
        assert stat.S_IMODE(target.stat().st_mode) == 0o600
        assert os.listdir(tmp_path) == ["a.tar"]

    async def test_the_mode_is_the_umasks(self, tmp_path: Path) -> None:
        before = os.umask(0o027)
        try:
            async with destination(str(tmp_path / "a.tar"), "x.tar") as out:
                await out.commit()
        finally:
            os.umask(before)
        assert stat.S_IMODE((tmp_path / "a.tar").stat().st_mode) == 0o640

    async def test_the_last_step_failing_leaves_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refusing(*args: object, **kwargs: object) -> None:
            raise OSError(errno.EIO, "broken")

        monkeypatch.setattr(os, "rename", refusing)
        with pytest.raises(StreamerError, match=r"cannot write .*a\.tar"):
            async with destination(str(tmp_path / "a.tar"), "x.tar") as out:
                await out.commit()
        assert os.listdir(tmp_path) == []


def _directory(root: Path) -> str:
    return str(root)


def _missing(root: Path) -> str:
    return str(root / "no" / "a.tar")


def _below_a_file(root: Path) -> str:
    (root / "file").write_bytes(b"")
    return str(root / "file" / "a.tar")


def _link(root: Path) -> str:
    (root / "file").write_bytes(b"kept")
    (root / "link").symlink_to("file")
    return str(root / "link")


def _dangling(root: Path) -> str:
    (root / "link").symlink_to("nowhere")
    return str(root / "link")


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (_directory, InvalidRequest, r"is a directory.*/x\.tar\)"),
        (_missing, NotFound, "No such file"),
        (_below_a_file, NotFound, "Not a directory"),
        (_link, InvalidRequest, "is a symbolic link"),
        (_dangling, InvalidRequest, "is a symbolic link"),
        (lambda root: "", InvalidRequest, "-o is empty"),
        (lambda root: f"{root}/new/", InvalidRequest, "is not the name of a file"),
    ],
)
async def test_refused(tmp_path: Path, make: Callable[[Path], str], kind: type[StreamerError], message: str) -> None:
    name = make(tmp_path)
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(kind, match=message):
        async with destination(name, "x.tar"):
            raise AssertionError
    assert sorted(os.listdir(tmp_path)) == before


async def test_a_terminal_is_refused() -> None:
    master, slave = os.openpty()
    try:
        with pytest.raises(InvalidRequest, match=r"terminal: name a file \(for example -o web\.tar\)"):
            async with destination(os.ttyname(slave), "web.tar"):
                raise AssertionError
    finally:
        os.close(master)
        os.close(slave)


async def test_a_device_is_written_to_and_stays() -> None:
    async with destination("/dev/null", "x.tar") as out:
        await out.write(b"x")
        await out.commit()
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


async def test_a_full_device() -> None:
    with pytest.raises(StorageFull, match="cannot write /dev/full: No space left"):
        async with destination("/dev/full", "x.tar") as out:
            await out.write(b"x")


@pytest.mark.root
@pytest.mark.usefixtures("way")
async def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", tmp_path], check=True)
    try:
        with pytest.raises(StorageFull):
            async with destination(str(tmp_path / "a.tar"), "x.tar") as out:
                await out.write(bytes(2 << 20))
        assert os.listdir(tmp_path) == []
    finally:
        subprocess.run(["umount", tmp_path], check=True)


async def test_a_fifo_gets_everything(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    data = os.urandom(3 << 20)
    read: list[bytes] = []

    def reader() -> None:
        read.append((tmp_path / "fifo").read_bytes())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(anyio.to_thread.run_sync, reader)
        async with destination(str(tmp_path / "fifo"), "x.tar") as out:
            await out.write(data)
            await out.commit()
    assert read == [data]
    assert stat.S_ISFIFO((tmp_path / "fifo").stat().st_mode)


async def test_a_pipe_that_nobody_reads_can_be_left() -> None:
    reader, writer = os.pipe()
    try:
        with anyio.move_on_after(0.1) as scope:
            async with output._stream(writer, "standard output") as out:
                await out.write(bytes(4 << 20))
        assert scope.cancelled_caught
        assert os.get_blocking(writer), "the descriptor that others share was changed"
    finally:
        os.close(reader)
        os.close(writer)


async def test_a_pipe_whose_reader_left() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        with pytest.raises(BrokenPipeError):
            async with output._stream(writer, "standard output") as out:
                await out.write(b"x")
    finally:
        os.close(writer)


async def test_a_socket_gets_everything() -> None:
    import socket

    ours, theirs = socket.socketpair()
    data = os.urandom(3 << 20)
    read = bytearray()

    def reader() -> None:
        while piece := theirs.recv(1 << 20):
            read.extend(piece)

    with theirs:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.to_thread.run_sync, reader)
            with ours:
                async with output._stream(ours.fileno(), "standard output") as out:
                    await out.write(data)
                assert ours.getblocking()
    assert bytes(read) == data
