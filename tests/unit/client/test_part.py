from __future__ import annotations

import errno
import fcntl
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from streamer.client.journal import Journal
from streamer.client.part import part, part_name
from streamer.errors import Conflict, NotPermitted

JOURNAL = Journal("/x", '"e"', 8, ((0, 8),))


def _name(target: Path) -> Path:
    return target.parent / part_name(target.name)


def test_appears_only_when_it_is_published(tmp_path: Path) -> None:
    target = tmp_path / "a.tar"
    with part(str(target)) as file:
        file.write(memoryview(b"5678"), 4)
        file.write(memoryview(b"1234"), 0)
        file.save(JOURNAL)
        assert not target.exists()
        assert sorted(os.listdir(tmp_path)) == [".a.tar.streamer-part", ".a.tar.streamer-part.json"]
        file.publish()
        assert os.listdir(tmp_path) == ["a.tar"]
        file.save(JOURNAL)
        file.remove()
    assert target.read_bytes() == b"12345678"
    assert os.listdir(tmp_path) == ["a.tar"]


def test_what_was_kept_is_found_again(tmp_path: Path) -> None:
    target = str(tmp_path / "a.tar")
    with part(target) as file:
        assert file.journal() is None
        assert file.blank
        file.write(memoryview(b"12345678"), 0)
        file.save(JOURNAL)
    with part(target) as file:
        assert file.journal() == JOURNAL
        assert not file.blank
        file.clear()
        assert file.journal() is None
        assert file.blank
        file.remove()
    assert os.listdir(tmp_path) == []


def test_a_journal_without_its_bytes_is_none(tmp_path: Path) -> None:
    target = tmp_path / "a.tar"
    with part(str(target)) as file:
        file.write(memoryview(b"12345678"), 0)
        file.save(JOURNAL)
    _name(target).unlink()
    with part(str(target)) as file:
        assert file.journal() is None


def test_the_journal_follows_the_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a journal claims is durable before the journal has its name; and it is gone before other bytes come."""
    calls: list[str] = []
    for name in ("fdatasync", "fsync", "rename", "unlink", "ftruncate"):
        original = getattr(os, name)

        def noted(*args: Any, _name: str = name, _original: Any = original, **kwargs: Any) -> Any:
            calls.append(_name)
            return _original(*args, **kwargs)

        monkeypatch.setattr(os, name, noted)
    with part(str(tmp_path / "a.tar")) as file:
        file.write(memoryview(b"12345678"), 0)
        file.save(JOURNAL)
        assert (calls[0], calls[-1]) == ("fdatasync", "rename")
        calls.clear()
        file.clear()
        assert calls == ["unlink", "fsync", "ftruncate"]
        calls.clear()
        file.publish()
        assert calls == ["fsync", "rename", "unlink", "fsync"]


def test_a_second_one_is_refused(tmp_path: Path) -> None:
    target = str(tmp_path / "a.tar")
    with part(target), pytest.raises(Conflict, match=r"a\.tar: another command is doing so"), part(target):
        raise AssertionError
    with part(target):
        pass


def test_the_name_is_taken_over_from_one_that_finishes(tmp_path: Path) -> None:
    """A second command that has opened the file when the first renames it must not write into what is published."""
    target = tmp_path / "a.tar"
    opened = os.open
    with part(str(target)) as first:
        first.write(memoryview(b"whole"), 0)

        def slow(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
            fd = opened(path, flags, *args, **kwargs)
            if path == part_name("a.tar"):
                os.open = opened
                first.publish()
                fcntl.flock(first.fd, fcntl.LOCK_UN)
            return fd

        os.open = slow
        try:
            with part(str(target)) as second:
                assert second.blank
                second.write(memoryview(b"other"), 0)
                second.remove()
        finally:
            os.open = opened
    assert target.read_bytes() == b"whole"


@pytest.mark.parametrize("what", ["link", "directory", "fifo", "hard link"])
def test_something_in_the_way(tmp_path: Path, what: str) -> None:
    target = tmp_path / "a.tar"
    victim = tmp_path / "victim"
    victim.write_bytes(b"kept")
    if what == "link":
        _name(target).symlink_to(victim)
    elif what == "directory":
        _name(target).mkdir()
    elif what == "fifo":
        os.mkfifo(_name(target))
    else:
        os.link(victim, _name(target))
    message = r"\.a\.tar\.streamer-part beside it is not a file of this user's alone"
    with pytest.raises(NotPermitted, match=message), part(str(target)):
        raise AssertionError
    assert victim.read_bytes() == b"kept"


def test_a_journal_that_is_a_link_is_not_read(tmp_path: Path) -> None:
    target = tmp_path / "a.tar"
    (tmp_path / "theirs").write_bytes(JOURNAL.encode())
    with part(str(target)) as file:
        file.write(memoryview(b"12345678"), 0)
        (tmp_path / (part_name("a.tar") + ".json")).symlink_to(tmp_path / "theirs")
        assert file.journal() is None
        file.save(JOURNAL)
        assert file.journal() == JOURNAL
    assert (tmp_path / "theirs").read_bytes() == JOURNAL.encode()


@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_what_replaces_a_private_file_is_as_private(tmp_path: Path, mode: int) -> None:
    target = tmp_path / "a.tar"
    target.write_bytes(b"old")
    target.chmod(mode)
    with part(str(target)) as file:
        assert stat.S_IMODE(os.fstat(file.fd).st_mode) == mode
        file.publish()
    assert stat.S_IMODE(target.stat().st_mode) == mode


def test_the_mode_is_the_umasks(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with part(str(tmp_path / "a.tar")) as file:
            file.publish()
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.tar").stat().st_mode) == 0o640


@pytest.mark.parametrize("length", [1, 200, 241, 255])
def test_long_names(tmp_path: Path, length: int) -> None:
    target = tmp_path / ("x" * length)
    with part(str(target)) as file:
        file.write(memoryview(b"12345678"), 0)
        file.save(JOURNAL)
        file.publish()
    assert os.listdir(tmp_path) == [target.name]


def test_errors_are_about_the_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError), part(str(tmp_path / "no" / "a.tar")):
        raise AssertionError
    target = str(tmp_path / "a.tar")
    with part(target) as file:

        def full(*args: object) -> int:
            raise OSError(errno.ENOSPC, "full")

        monkeypatch.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match="full") as caught:
            file.write(memoryview(b"x"), 0)
        assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, "a.tar")


def test_a_killed_holder_holds_nothing(tmp_path: Path) -> None:
    code = (
        "import sys, time; from streamer.client.part import part\n"
        "with part(sys.argv[1]): print(flush=True); time.sleep(99)"
    )
    target = str(tmp_path / "a.tar")
    root = Path(__file__).parents[3]
    with subprocess.Popen([sys.executable, "-c", code, target], stdout=subprocess.PIPE, cwd=root) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(Conflict), part(target):
            raise AssertionError
        process.kill()
        process.wait()
    with part(target):
        pass


def test_what_could_not_be_made_durable_once_is_in_no_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels tell of an error of writing back once, and then say that all is well."""
    target = tmp_path / "a.tar"
    calls = []

    def synced(fd: int) -> None:
        calls.append(fd)
        if len(calls) == 1:
            raise OSError(5, "Input/output error")

    with part(str(target)) as file:
        file.write(memoryview(b"lost"), 0)
        monkeypatch.setattr(os, "fdatasync", synced)
        for _ in range(2):
            with pytest.raises(OSError, match="Input/output error"):
                file.save(Journal("/r", '"e"', 4, ((0, 4),)))
        with pytest.raises(OSError, match="Input/output error"):
            file.publish()
        assert file.journal() is None
    assert not target.exists()


@pytest.mark.root
def test_what_replaces_a_file_that_all_may_write_to_is_not_that(tmp_path: Path) -> None:
    target = tmp_path / "a.tar"
    target.write_bytes(b"old")
    target.chmod(0o666)
    os.chown(target, 65534, 65534)
    with part(str(target)) as file:
        assert os.fstat(file.fd).st_mode & 0o022 == 0
        file.write(memoryview(b"new"), 0)
        file.publish()
    assert target.stat().st_mode & 0o022 == 0
