"""Layers read without a mount while somebody writes to the topmost: nothing deleted comes back, nothing is opened that
is no file, and what is ordinary in a running container ends no export."""

from __future__ import annotations

import ctypes
import io
import os
import shutil
import stat
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from streamer import native
from streamer.errors import SourceChanged
from streamer.export.container import _opened
from streamer.export.plan import Options, Report, Session
from streamer.export.walked import Walked
from streamer.mounts.mount import Snapshot
from streamer.mounts.table import MountTable
from streamer.tar.region import Region

pytestmark = pytest.mark.root

_IN_OPEN = 0x20


def session() -> Session:
    return Session(MountTable(), Report(), lambda: None)


def source(*layers: Path, path: bytes = b"", live: bool = True) -> Walked:
    """The topmost layer first; it is a container's if `live`."""

    @contextmanager
    def held() -> Iterator[tuple[Snapshot, None]]:
        yield snapshot, None

    upper, *lowers = (os.fsencode(layer) for layer in layers)
    snapshot = Snapshot("overlay", tuple(lowers), upper) if live else Snapshot("overlay", (upper, *lowers))
    options = Options(path=path)
    return Walked(partial(_opened, held, options, live), options, "layers")


def names(data: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return archive.getnames()


@pytest.fixture(params=["compiled", "interpreted"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "interpreted":
        monkeypatch.setattr(native, "available", lambda: False)
        monkeypatch.setattr(MountTable, "possible", lambda *_: False)
    elif not native.available():
        pytest.skip("there is no compiled walk")
    return str(request.param)


def test_a_file_that_becomes_a_device_is_not_opened(tmp_path: Path) -> None:
    for number in range(400):
        (tmp_path / f"a{number:04}").write_bytes(b"x" * 4000)
    (tmp_path / "z").write_bytes(b"z")
    libc = ctypes.CDLL(None)
    watch = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        chunks = iter(source(tmp_path).chunks(None, session()))
        first = next(chunks)
        (tmp_path / "z").unlink()
        os.mknod(tmp_path / "z", stat.S_IFCHR | 0o666, os.makedev(1, 5))
        assert libc.inotify_add_watch(watch, os.fsencode(tmp_path / "z"), _IN_OPEN) > 0
        rest = b"".join(chunks)
        with pytest.raises(BlockingIOError):
            os.read(watch, 16)
    finally:
        os.close(watch)
    with tarfile.open(fileobj=io.BytesIO(first + rest)) as archive:
        found = archive.getmember("z")
        assert (found.type, found.devmajor, found.devminor) == (tarfile.CHRTYPE, 1, 5)


def test_a_directory_that_is_deleted_under_way_is_counted(way: str, tmp_path: Path) -> None:
    upper, lower = tmp_path / "upper", tmp_path / "lower"
    (upper / "tmp").mkdir(parents=True)
    lower.mkdir()
    (upper / "tmp/0large").write_bytes(b"x" * 300_000)  # not read by the compiled walk
    for number in range(300):
        (upper / f"tmp/s{number:03}").write_bytes(b"x" * 4000)
    (upper / "z").write_bytes(b"z")
    chosen = session()
    chunks = iter(source(upper, lower).chunks(None, chosen))
    data = b""
    while len(data) < 310_000:
        data += next(chunks)
    shutil.rmtree(upper / "tmp")
    found = names(data + b"".join(chunks))
    assert found[-1] == "z"
    assert chosen.report.vanished + len(found) == 303
    assert chosen.report.vanished > 100


@pytest.mark.skipif(not native.available(), reason="there is no compiled walk")
def test_what_was_deleted_does_not_come_back_with_its_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel's own order (ovl_clear_empty): the directory is moved away, its whiteouts go, then it goes."""
    upper, lower, work = tmp_path / "upper", tmp_path / "lower", tmp_path / "work"
    for each in (upper / "a", lower / "a", work):
        each.mkdir(parents=True)
    for number in range(3):
        (lower / f"a/secret{number}").touch()
        os.mknod(upper / f"a/secret{number}", stat.S_IFCHR, 0)
    walked = source(upper, lower, path=b"a")
    assert names(b"".join(walked.chunks(None, session()))) == ["a"]

    class Walk(native.Walk):
        def __init__(self, *arguments: object, **options: object) -> None:
            os.rename(upper / "a", work / "a")
            os.mknod(upper / "a", stat.S_IFCHR, 0)
            for number in range(3):
                (work / f"a/secret{number}").unlink()
            super().__init__(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(native, "Walk", Walk)
    with pytest.raises(SourceChanged):
        list(walked.chunks(None, session()))


@pytest.mark.skipif(not native.available(), reason="there is no compiled walk")
def test_a_wide_directory_that_is_deleted_before_it_is_listed(tmp_path: Path) -> None:
    (tmp_path / "wide").mkdir()
    for number in range(20_000):
        if number % 100 == 0 and (tmp_path / "wide").stat().st_size > 300_000:
            break
        (tmp_path / f"wide/{number:060}").touch()
    (tmp_path / "zz").touch()
    chunks = iter(source(tmp_path).chunks(None, session()))
    first = next(chunks)
    assert len(first) == 512, "the directory's own entry leaves before its names are listed"
    shutil.rmtree(tmp_path / "wide")
    assert names(first + b"".join(chunks)) == ["wide", "zz"]


def test_more_layers_than_the_compiled_walk_takes(way: str, tmp_path: Path) -> None:
    layers = []
    for number in range(native.MOST_ROOTS + 1):
        layers.append(tmp_path / f"l{number:03}")
        layers[-1].mkdir()
        (layers[-1] / f"f{number:03}").touch()
    found = names(b"".join(source(*layers, live=False).chunks(None, session())))
    assert found == [f"f{number:03}" for number in range(len(layers))]


@pytest.mark.skipif(not native.available(), reason="there is no compiled walk")
def test_layers_on_two_file_systems_are_read_through_a_mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[int] = []

    class Walk(native.Walk):
        def __init__(self, roots: tuple[int, ...], *arguments: object, **options: object) -> None:
            begun.append(len(roots))
            super().__init__(roots, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(native, "Walk", Walk)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as other:
        for place, name in ((tmp_path, "a"), (Path(other), "b")):
            (place / "d").mkdir()
            (place / "d" / name).touch()
        found = names(b"".join(source(tmp_path, Path(other), live=False).chunks(None, session())))
    assert found == ["d", "d/a", "d/b"]
    assert begun == [1]


@pytest.mark.parametrize("when", [-(1 << 34), 1 << 34])
def test_times_beyond_what_64_bits_of_nanoseconds_tell(way: str, when: int) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        (Path(folder) / "f").touch()
        os.utime(Path(folder) / "f", (when, when))
        walked = source(Path(folder), live=False)
        made = b"".join(walked.chunks(None, session()))
        with walked.outline(None, session()) as outline:
            assert outline.size == len(made)
            assert b"".join(outline.part((0, outline.size))) == made


def test_only_what_nobody_writes_to_comes_as_regions(tmp_path: Path) -> None:
    """A container's own layer may be written to while it is read; those of its image are made once."""
    if not native.available():
        pytest.skip("only the compiled walk tells of which layer a file is")
    upper, lower = tmp_path / "upper", tmp_path / "lower"
    for layer, name in ((upper, "new"), (lower, "old")):
        layer.mkdir()
        (layer / name).write_bytes(bytes([len(name)]) * (2 << 20))

    def regions(live: bool) -> set[int]:
        asked = Session(MountTable(), Report(), lambda: None, regions=True)
        found = set()
        for chunk in source(upper, lower, live=live).chunks(None, asked):
            if isinstance(chunk, Region):
                found.add(os.fstat(chunk.descriptor).st_ino)
        return found

    new, old = (upper / "new").stat().st_ino, (lower / "old").stat().st_ino
    assert regions(live=True) == {old}
    assert regions(live=False) == {new, old}


def test_what_was_opened_for_nothing_is_closed(way: str, tmp_path: Path) -> None:
    """A source that changed is noticed at a mark, when the file behind it is open already."""
    layer = tmp_path / "layer"
    layer.mkdir()
    for name in "abc":
        (layer / name).write_bytes(name.encode() * (2 << 20))
    before = sorted(os.listdir("/proc/self/fd"))
    with source(layer, live=False).outline(None, session()) as outline:
        os.utime(layer / "a", (1, 1))
        with pytest.raises(SourceChanged):
            for _ in outline.part((0, outline.size)):
                pass
    assert sorted(os.listdir("/proc/self/fd")) == before
