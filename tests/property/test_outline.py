"""Whatever the tree: the compiled walk makes what the interpreted one does, an outline knows what will be sent, and any
part of it is that part of the whole."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamer import native
from streamer.drivers.trees import _Mounted
from streamer.errors import SourceChanged
from streamer.export import outline as outlines
from streamer.export.items import Pass
from streamer.export.plan import Options, Outline, Report, Session
from streamer.export.runs import items
from streamer.export.walked import Walked
from streamer.mounts.table import MountTable

NAMES = st.one_of(
    st.binary(min_size=1, max_size=6),
    st.sampled_from(
        [b"a", b"a.b", b"a-b", b"ab", b"B", b"d" * 60, b"e" * 99, b"f" * 101, b"g" * 200, "é".encode(), b"\xff"]
    ),
).map(lambda name: name.replace(b"\0", b"0").replace(b"/", b"_"))
NAMES = NAMES.filter(lambda name: name not in (b".", b".."))
SIZES = st.one_of(st.integers(0, 1100), st.sampled_from([0, 512, 131071, 131072, 131073, 300_000, 1_100_000]))
KINDS = st.sampled_from(["file", "file", "file", "directory", "directory", "symlink", "link", "fifo", "hole"])
ENTRIES = st.lists(
    st.tuples(KINDS, st.integers(0, 30), NAMES, SIZES, st.integers(0, 2**33 + 5), st.integers(0, 2_200_000)),
    max_size=25,
)


def made(root: Path, entries: list[tuple[str, int, bytes, int, int, int]]) -> None:
    """A tree of them; each in the directory of the number, links to what there is."""
    directories, files = [os.fsencode(root)], []
    for kind, number, name, size, mtime, owner in entries:
        above = directories[number % len(directories)]
        path = above + b"/" + name
        if os.path.lexists(path) or len(path) > 3000:
            continue
        if kind == "directory":
            os.mkdir(path)
            directories.append(path)
        elif kind == "symlink":
            os.symlink(name * (1 + size % 3), path)
        elif kind == "link" and files:
            os.link(files[number % len(files)], path)
            continue
        elif kind == "fifo":
            os.mkfifo(path)
        else:
            with open(path, "wb") as file:
                if kind == "hole":
                    file.truncate(size * 3)
                else:
                    file.write(random.Random(size).randbytes(size))
            files.append(path)
        os.chmod(path, 0o100 | mtime & 0o7777) if kind != "symlink" else None
        if os.geteuid() == 0:
            os.chown(path, owner, owner // 2, follow_symlinks=False)
        os.utime(path, ns=(0, mtime * 1_000_000_007), follow_symlinks=False)


@contextmanager
def source(root: Path, options: Options) -> Iterator[Walked]:
    @contextmanager
    def opened(session: Session) -> Iterator[Pass]:
        fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            tree = _Mounted(fd, overlay=False, live=True)
            yield lambda cursor, resume: items(tree, options, session, cursor, resume, ids=None, live=True)
        finally:
            os.close(fd)

    yield Walked(opened, options, "a tree")


def session() -> Session:
    return Session(MountTable(), Report(), lambda: None)


def whole(root: Path, options: Options) -> bytes:
    with source(root, options) as walked:
        return b"".join(walked.chunks(None, session()))


@contextmanager
def outlined(root: Path, options: Options) -> Iterator[Outline]:
    with source(root, options) as walked, walked.outline(None, session()) as outline:
        yield outline


@pytest.fixture(params=["compiled", "interpreted"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "interpreted":
        monkeypatch.setattr(native, "available", lambda: False)
    elif not native.available():
        pytest.skip("there is no compiled walk")
    monkeypatch.setattr(outlines, "_GRAIN", 0)
    return str(request.param)


common = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
MTIMES = st.sampled_from([None, None, 0, 10**9])


@pytest.mark.skipif(not native.available(), reason="there is no compiled walk")
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(entries=ENTRIES, mtime=MTIMES)
def test_compiled_and_interpreted_are_one(
    entries: list[tuple[str, int, bytes, int, int, int]], mtime: int | None
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        made(root, entries)
        options = Options(mtime=mtime)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(outlines, "_GRAIN", 0)
            swift = whole(root, options)
            with outlined(root, options) as outline:
                known = outline.size, outline.etag
            patch.setattr(native, "available", lambda: False)
            assert whole(root, options) == swift
            with outlined(root, options) as outline:
                assert (outline.size, outline.etag) == known
            assert known[0] == len(swift)


@common
@given(entries=ENTRIES, stride=st.sampled_from([512, 3000, 40_000, 1 << 20]), seed=st.integers())
def test_any_part_is_that_part_of_the_whole(
    way: str,
    monkeypatch: pytest.MonkeyPatch,
    entries: list[tuple[str, int, bytes, int, int, int]],
    stride: int,
    seed: int,
) -> None:
    monkeypatch.setattr(outlines, "_STRIDE", stride)
    monkeypatch.setattr(outlines, "_MARKS", 8)
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        made(root, entries)
        expected = whole(root, Options())
        with outlined(root, Options()) as outline:
            assert outline.size == len(expected)
            spans = [
                (0, len(expected)),
                (0, 1),
                (len(expected) - 1, len(expected)),
                (len(expected) - 1024, len(expected)),
            ]
            for _ in range(12):
                start = chance.randrange(len(expected))
                stop = min(len(expected), start + chance.choice([1, 511, 512, 513, 70_000, 1 << 40]))
                spans.append((start, stop))
            for start, stop in spans:
                assert b"".join(outline.part((start, stop))) == expected[start:stop], (start, stop)


CHANGES = {
    "written": lambda path: path.write_bytes(b"y" * path.stat().st_size),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"z"),
    "shorter": lambda path: os.truncate(path, path.stat().st_size - 1),
    "touched": lambda path: os.utime(path, (1, 1)),
    "owned": lambda path: path.chmod(0o600),
    "removed": lambda path: path.unlink(),
    "replaced": lambda path: (path.unlink(), path.write_bytes(b"new")),
    "directory": lambda path: (path.unlink(), path.mkdir()),
    "added": lambda path: path.with_name("added").write_bytes(b"new"),
    "parent removed": lambda path: shutil.rmtree(path.parent),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("changed", ["d3/f17", "d0/f0", "d7/f39"])
def test_what_changed_since_never_ends_cleanly(
    way: str, change: str, changed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not in the whole, nor in any part that holds what changed. A part that does not is sent or refused."""
    monkeypatch.setattr(outlines, "_STRIDE", 20_000)
    for folder in range(8):
        (tmp_path / f"d{folder}").mkdir()
        for number in range(40):
            (tmp_path / f"d{folder}/f{number}").write_bytes(b"x" * (7 + 97 * number))
    before = whole(tmp_path, Options())
    with outlined(tmp_path, Options()) as outline:
        CHANGES[change](tmp_path / changed)
        after = whole(tmp_path, Options())
        first = next(at for at in range(0, len(before), 512) if before[at : at + 512] != after[at : at + 512])
        for span in [(0, outline.size), (first, outline.size), (first, first + 1), (max(0, first - 999), first + 600)]:
            with pytest.raises(SourceChanged):
                list(outline.part(span))
        for start in range(0, outline.size, 30_011):
            span = (start, min(outline.size, start + 10_000))
            try:
                given = b"".join(outline.part(span))
            except SourceChanged:
                continue
            assert given == before[slice(*span)]


def test_deep_trees(way: str, tmp_path: Path) -> None:
    """Deeper than directories are held open, with names longer than any header."""
    here = os.fsencode(tmp_path)
    for level in range(90):
        here += b"/" + b"%03d" % level * (1 + level % 9)
        os.mkdir(here)
        for name in (b"a", b"z"):
            fd = os.open(here + b"/" + name, os.O_CREAT | os.O_WRONLY)
            os.write(fd, b"%d" % level * 400)
            os.close(fd)
    expected = whole(tmp_path, Options())
    with outlined(tmp_path, Options()) as outline:
        assert outline.size == len(expected)
        for start in range(0, len(expected), len(expected) // 17):
            assert b"".join(outline.part((start, len(expected)))) == expected[start:]


def test_an_interrupted_part_leaves_nothing_open(way: str, tmp_path: Path) -> None:
    for number in range(30):
        (tmp_path / f"f{number}").write_bytes(bytes(400_000 if number % 7 == 0 else 5000))
    before = set(os.listdir("/proc/self/fd"))
    with outlined(tmp_path, Options()) as outline:
        for taken in range(6):
            part = outline.part((999, outline.size))
            for _ in range(taken):
                next(part)
            part.close()  # type: ignore[attr-defined]
    assert set(os.listdir("/proc/self/fd")) <= before


def test_a_file_written_to_a_moment_ago_is_looked_at_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its times could stay as they are if it were written to once more at once."""
    (tmp_path / "file").write_bytes(b"now")
    waits: list[float] = []
    monkeypatch.setattr(outlines.time, "sleep", waits.append)
    monkeypatch.setattr(outlines.time, "time_ns", partial(int, (tmp_path / "file").stat().st_ctime_ns + 1))
    with outlined(tmp_path, Options()):
        assert len(waits) == 3
    monkeypatch.setattr(outlines.time, "time_ns", partial(int, (tmp_path / "file").stat().st_ctime_ns + 10**9))
    waits.clear()
    with outlined(tmp_path, Options()):
        assert not waits
