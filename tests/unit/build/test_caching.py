"""The build cache on the real store: what hits, what misses, and how often files are read."""

from __future__ import annotations

import asyncio
import io
import os
import tarfile
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import anyio
import pytest
from support import images, trees
from support.images import directory, file, layer, symlink
from support.trees import Dir, File, Symlink

from streamer.build import contexts
from streamer.build.builder import Options
from streamer.build.building import build
from streamer.build.order import Order, names
from streamer.build.workshop import LocalWorkshop
from streamer.context.tree import Hashing
from streamer.errors import InvalidRequest, SourceChanged
from streamer.export.exporter import exporter
from streamer.stores.base import Image
from streamer.stores.local.intake import Intake
from streamer.stores.local.store import LocalStore
from streamer.tar.source import Limits

TEXT = b"FROM base:1\nENV a=b\nCOPY one dir /files/\nCOPY big /\nWORKDIR /w\nADD two /t\nLABEL c=d\n"
TREE = (
    File("one", "1", mode=0o644),
    File("two", "2", mode=0o644),
    File("big", bytes(3 << 20), mode=0o600),
    Dir("dir", File("a", "a" * 5000, mode=0o644), Symlink("b", "a"), mode=0o755),
)
BASE = images.image(layer(directory("etc/"), file("etc/passwd", b"root:x:0:0::/:\n")), names=["base:1"])


class Builds:
    """A store and a context. `said` are the lines of the last build."""

    def __init__(self, store: LocalStore, place: Path) -> None:
        self.store = store
        self.context = Path(os.fsdecode(trees.make(place / "context", *TREE)))
        self.scratch = place / "scratch"
        self.scratch.mkdir()
        self.said: list[str] = []

    async def build(self, text: bytes = TEXT, *, archive: bytes | None = None, cache: bool = True) -> Image:
        self.said.clear()
        order = Order(names(["made:1"]), options=Options(cache=cache))
        if archive is None:
            opened = contexts.entered(lambda: contexts.of_directory(os.fsencode(self.context), text, Hashing.DOCKER_24))
        else:
            data = archive
            opened = contexts.entered(lambda: contexts.of_source(io.BytesIO(data), None, self.scratch, Limits()))
        async with opened as given, exporter() as exports:
            workshop = LocalWorkshop(self.store, exports.mounts, given.tree, Hashing.DOCKER_24)
            made = await build(
                order,
                given.dockerfile,
                given.name,
                workshop=workshop,
                look_up=self.store.image,
                naming=self.store,
                say=self._say,
            )
            assert exports.mounts.statistics().leases == 0
            return made

    async def _say(self, line: object) -> None:
        self.said.append(line.get("stream", ""))  # type: ignore[attr-defined]

    @property
    def hits(self) -> int:
        return self.said.count(" ---> Using cache\n")


@pytest.fixture
async def builds(tmp_path: Path) -> AsyncIterator[Builds]:
    async with LocalStore.open(tmp_path / "state") as store:
        await store.import_archive(images.Bytes(images.pack(images.docker(BASE))))
        yield Builds(store, tmp_path)
        assert os.listdir(tmp_path / "state/staging") == []
        assert os.listdir(tmp_path / "scratch") == []


@pytest.fixture
def read(builds: Builds, monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """Bytes read so far of each file of the context."""
    counted: Counter[str] = Counter()
    numbers = {path.stat().st_ino: path.name for path in builds.context.rglob("*") if path.is_file()}
    original = os.pread

    def pread(fd: int, length: int, offset: int) -> bytes:
        data = original(fd, length, offset)
        name = numbers.get(os.fstat(fd).st_ino)
        if name is not None:
            counted[name] += len(data)
        return data

    monkeypatch.setattr(os, "pread", pread)
    yield counted


SIZES = {"one": 1, "two": 1, "big": 3 << 20, "a": 5000}


async def test_an_unchanged_context_is_read_once(builds: Builds, read: Counter[str]) -> None:
    first = await builds.build()
    assert builds.hits == 0
    assert read == {name: 2 * size for name, size in SIZES.items()}  # to be hashed, and to be stored
    read.clear()
    assert (await builds.build()).id == first.id
    assert builds.hits == 6
    assert read == SIZES  # the hash decides; nothing is read to be copied


async def test_times_do_not_count(builds: Builds) -> None:
    first = await builds.build()
    for path in (*builds.context.rglob("*"), builds.context):
        os.utime(path, (1, 1), follow_symlinks=False)
    assert (await builds.build()).id == first.id
    assert builds.hits == 6


CHANGES = {
    "a mode": (lambda context: (context / "one").chmod(0o600), 1),
    "a mode of a directory": (lambda context: (context / "dir").chmod(0o700), 1),
    "a byte": (lambda context: (context / "dir/a").write_text("a" * 4999 + "b"), 1),
    "a byte of a later file": (lambda context: (context / "two").write_text("3"), 4),
    "a name": (lambda context: (context / "dir/a").rename(context / "dir/c"), 1),
    "a file more": (lambda context: (context / "dir/c").write_text(""), 1),
    "what nobody copies": (lambda context: (context / "other").write_text(""), 6),
}


@pytest.mark.parametrize("name", CHANGES)
async def test_what_misses(builds: Builds, name: str) -> None:
    change, hits = CHANGES[name]
    first = await builds.build()
    change(builds.context)
    second = await builds.build()
    assert builds.hits == hits
    assert (second.id == first.id) is (hits == 6)


async def test_owners_count_where_a_context_has_any(builds: Builds) -> None:
    def archive(uid: int) -> bytes:
        return layer(file("Dockerfile", b"FROM base:1\nCOPY one /\n"), file("one", b"1", uid=uid))

    first = await builds.build(archive=archive(0))
    assert (await builds.build(archive=archive(0))).id == first.id
    assert (await builds.build(archive=archive(7))).id != first.id


async def test_an_instruction_that_changes(builds: Builds) -> None:
    await builds.build()
    await builds.build(TEXT.replace(b"a=b", b"a=c"))
    assert builds.hits == 0
    await builds.build(TEXT.replace(b"c=d", b"c=e"))
    assert builds.hits == 5
    await builds.build(TEXT.replace(b"COPY big /\n", b"COPY big /other\n"))
    assert builds.hits == 2
    await builds.build(TEXT.replace(b"COPY one dir /files/\n", b"COPY --chmod=600 one dir /files/\n"))
    assert builds.hits == 1


async def test_links_to_one_file_are_told_apart(builds: Builds) -> None:
    """What is hashed is the file that both lead to, but each is called by its own name."""
    for name in ("x", "y"):
        (builds.context / name).symlink_to("one")
    first = await builds.build(b"FROM base:1\nCOPY x /links/\n")
    second = await builds.build(b"FROM base:1\nCOPY y /links/\n")
    assert first.layers[-1].diff_id != second.layers[-1].diff_id


async def test_without_the_cache(builds: Builds) -> None:
    first = await builds.build()
    second = await builds.build(cache=False)
    assert builds.hits == 0
    assert second.id != first.id
    assert (await builds.build()).id == second.id


async def test_another_base_with_the_same_name(builds: Builds) -> None:
    await builds.build()
    other = images.image(layer(file("other", b"x")), names=["base:1"])
    await builds.store.import_archive(images.Bytes(images.pack(images.docker(other))))
    await builds.build()
    assert builds.hits == 0


async def test_steps_that_are_gone(builds: Builds) -> None:
    first = await builds.build()
    await builds.store.remove_image("made:1")
    second = await builds.build()
    assert builds.hits == 0
    assert second.id != first.id


async def test_pruning_keeps_what_a_name_needs(builds: Builds) -> None:
    first = await builds.build()
    await builds.store.prune()
    assert (await builds.build()).id == first.id
    assert builds.hits == 6


MEANWHILE = {
    "content": lambda context: (context / "one").write_text("other"),
    "mode": lambda context: (context / "one").chmod(0o600),
    "another": lambda context: (context / "dir/new").touch(),
    "gone": lambda context: (context / "dir/a").unlink(),
    "archive": lambda context: (context / "two").write_text("other"),
}


@pytest.mark.parametrize("change", MEANWHILE)
async def test_what_changes_after_it_was_hashed_is_not_copied(
    builds: Builds, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """Otherwise the cache would know other bytes under that hash."""
    real, asked = LocalWorkshop.cached, 0

    async def cached(workshop: LocalWorkshop, key: str) -> Image | None:
        nonlocal asked
        asked += 1
        found = await real(workshop, key)
        if asked == (2 if change != "archive" else 5):
            MEANWHILE[change](builds.context)
        return found

    monkeypatch.setattr(LocalWorkshop, "cached", cached)
    with pytest.raises(SourceChanged):
        await builds.build()


async def test_owners_are_kept_from_another_stage_only(builds: Builds) -> None:
    """The same file has the same hash; what COPY makes of its owner is another thing."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as out:
        for name, text in (("Dockerfile", b"FROM scratch\nCOPY a /\n"), ("a", b"x")):
            info = tarfile.TarInfo(name)
            info.size, info.uid, info.gid = len(text), 1000, 1000
            out.addfile(info, io.BytesIO(text))
    await builds.build(archive=archive.getvalue())
    layer_of_a = images.pack(images.docker(images.image(layer(file("a", b"x", uid=1000, gid=1000)), names=["owned:1"])))
    await builds.store.import_archive(images.Bytes(layer_of_a))
    await builds.build(b"FROM owned:1 AS b\nFROM scratch\nCOPY --from=b a /\n")
    assert builds.hits == 0


LINKED = {
    "where a link leads": ("dir/b", lambda path: (path.unlink(), path.symlink_to("/elsewhere"))),
    "what a file with two names holds": ("hard", lambda path: path.write_text("other")),
}


@pytest.mark.parametrize("change", LINKED)
async def test_what_no_hash_of_docker_tells_misses_as_well(builds: Builds, change: str) -> None:
    os.link(builds.context / "dir/a", builds.context / "hard")
    (builds.context / "dir/b").unlink()
    (builds.context / "dir/b").symlink_to("/nowhere")
    text = b"FROM scratch\nCOPY dir /d/\nCOPY hard /\n"
    before = await builds.build(text)
    name, changed = LINKED[change]
    changed(builds.context / name)
    assert (await builds.build(text)).layers[-1].diff_id != before.layers[-1].diff_id or change == "where a link leads"
    assert builds.hits == 0


async def test_members_that_come_twice(builds: Builds) -> None:
    """The first one's sum, the last one's content."""

    def packed(last: bytes) -> bytes:
        made = io.BytesIO()
        with tarfile.open(fileobj=made, mode="w") as out:
            for name, text in (("Dockerfile", b"FROM scratch\nCOPY a /\n"), ("a", b"first"), ("a", last)):
                info = tarfile.TarInfo(name)
                info.size = len(text)
                out.addfile(info, io.BytesIO(text))
        return made.getvalue()

    first = await builds.build(archive=packed(b"1"))
    assert (await builds.build(archive=packed(b"2"))).id != first.id
    assert builds.hits == 0


@pytest.mark.timeout(60)
async def test_cancelled_before_its_thread_asks_the_database(builds: Builds, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread's question is answered, and the build ends: nothing waits for a cancellation that came before it."""
    original = Intake.hold
    cancelled = threading.Event()

    def hold(intake: Intake, rows: object) -> object:
        assert cancelled.wait(30)
        return original(intake, rows)  # type: ignore[arg-type]

    monkeypatch.setattr(Intake, "hold", hold)
    with anyio.CancelScope() as scope:
        loop = asyncio.get_running_loop()
        # Delivered to everything that waits, before the thread goes on.
        loop.call_later(0.05, scope.cancel)
        loop.call_later(0.5, cancelled.set)
        await builds.build(b"FROM base:1\nENV a=b\n")
    assert scope.cancelled_caught


async def test_a_working_directory_behind_a_link(builds: Builds) -> None:
    """Its name is cleaned before anything is looked up, as the one that the configuration has."""
    base = images.image(layer(directory("usr/"), directory("usr/lib/"), symlink("lib", "usr/lib")), names=["linked:1"])
    await builds.store.import_archive(images.Bytes(images.pack(images.docker(base))))
    made = await builds.build(b"FROM linked:1\nWORKDIR /lib/../q\nCOPY one .\n")
    assert made.layers[-1].snapshot is not None
    shown = [layer.snapshot.upper or layer.snapshot.layers[0] for layer in made.layers if layer.snapshot is not None]
    assert [sorted(os.listdir(path)) for path in shown] == [[b"lib", b"usr"], [b"q"], [b"q"]]


@pytest.mark.parametrize("path", ["/etc/passwd", "/etc/passwd/x"])
async def test_a_volume_cannot_be_a_file(builds: Builds, path: str) -> None:
    with pytest.raises(InvalidRequest, match="the image has a file /etc/passwd"):
        await builds.build(f"FROM base:1\nVOLUME /data {path}\n".encode())
