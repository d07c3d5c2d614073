"""When lists are read: locks held for a moment, nothing parsed twice, end checks that see what engines do."""

from __future__ import annotations

import fcntl
import os
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from support import images, leaks
from support.handmade import Handmade
from support.images import file, layer

from streamer.errors import SourceChanged, StoreDamaged, StreamerError
from streamer.oci import document
from streamer.stores.containers_storage import locks, reading
from streamer.stores.containers_storage.places import Place
from streamer.stores.containers_storage.store import containers_storage

IMAGE = images.image(layer(file("a", b"a")), layer(file("b", b"b")))
_FLOCK = struct.Struct("@hhqqi0q")


@pytest.fixture
def made(tmp_path: Path) -> Handmade:
    made = Handmade(tmp_path / "root")
    made.container("box", made.image(IMAGE, "localhost/x:1"))
    made.save()
    return made


@contextmanager
def written(path: Path) -> Iterator[None]:
    """The lock of an engine that writes."""
    with open(path, "r+b") as lock:
        fcntl.fcntl(lock, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
        yield


def is_free(path: Path) -> bool:
    """Whether an engine could write now."""
    with open(path, "r+b") as lock:
        found = fcntl.fcntl(lock, fcntl.F_OFD_GETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
    return bool(_FLOCK.unpack(found)[0] == fcntl.F_UNLCK)


def test_locks_are_shared_and_given_back(made: Handmade) -> None:
    place = Place("s", bytes(made.root), "overlay")
    names = [(place, place.lock(kind)) for kind in ("layers", "images", "containers")]
    paths = [made.root / name for _, name in names]
    before = leaks.held()
    with locks.shared(names) as got:
        assert got
        assert not any(is_free(path) for path in paths)
        with locks.shared(names) as again:
            assert again
    assert all(is_free(path) for path in paths)
    with written(paths[1]), locks.shared(names) as got:
        assert not got
        assert is_free(paths[2])
    assert all(is_free(path) for path in paths)
    assert leaks.held().beyond(before) == []


def test_locks_that_are_not_there(tmp_path: Path) -> None:
    with locks.shared([(Place("s", bytes(tmp_path), "overlay"), "overlay-images/images.lock")]) as got:
        assert got


async def test_waits_for_a_writer(made: Handmade, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "PATIENCE", 60.0)
    asked = threading.Event()
    lists = reading.Reader.lists

    def watched(self: reading.Reader, *, locked: bool) -> reading.Lists | None:
        found = lists(self, locked=locked)
        if found is None:
            asked.set()
        return found

    monkeypatch.setattr(reading.Reader, "lists", watched)
    found: list[str] = []

    async def read() -> None:
        found.extend(image.id for image in await containers_storage("s", made.root).images())

    async with anyio.create_task_group() as tasks:
        with written(made.root / "overlay-layers/layers.lock"):
            tasks.start_soon(read)
            assert await anyio.to_thread.run_sync(asked.wait, 60)
            assert not found
    assert found == [IMAGE.id]


async def test_reads_without_locks_after_a_while(made: Handmade, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "PATIENCE", 0.02)
    with written(made.root / "overlay-layers/layers.lock"):
        assert [image.id for image in await containers_storage("s", made.root).images()] == [IMAGE.id]


async def test_nothing_is_parsed_twice(made: Handmade, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[str] = []
    loads = document.loads
    monkeypatch.setattr(document, "loads", lambda data, what, limit: parsed.append(what) or loads(data, what, limit))
    store = containers_storage("s", made.root)
    found = (await store.image("x:1")).layers[-1]
    lists = [what for what in parsed if ".json" in what]
    assert len(lists) == 3
    assert found.guard is not None
    found.guard()
    await store.images()
    await store.layers()
    await store.containers()
    assert [what for what in parsed if ".json" in what] == lists
    made.containers.clear()
    made.save()
    assert len(await store.containers()) == 0
    assert len([what for what in parsed if ".json" in what]) == 6  # save writes all three


async def test_a_replaced_list_is_seen(made: Handmade) -> None:
    store = containers_storage("s", made.root)
    assert len(await store.images()) == 1
    other = images.image(layer(file("c")))
    made.image(other)
    made.save()
    assert {image.id for image in await store.images()} == {IMAGE.id, other.id}


def _gone(made: Handmade) -> None:
    made.layers.clear()


def _incomplete(made: Handmade) -> None:
    made.layers[0]["flags"] = {"incomplete": True}


def _made_anew(made: Handmade) -> None:
    made.layers[0]["created"] = "2025-01-01T00:00:00Z"


@pytest.mark.parametrize("change", [_gone, _incomplete, _made_anew])
async def test_end_check_of_layers(made: Handmade, change: object) -> None:
    assert callable(change)
    store = containers_storage("s", made.root)
    guards = [found.guard for found in (await store.image("x:1")).layers]
    guards.append((await store.container("box")).guard)
    for guard in guards:
        assert guard is not None
        guard()
    change(made)
    made.save()
    for guard in guards:
        assert guard is not None
        with pytest.raises(SourceChanged):
            guard()


async def test_end_check_of_containers(made: Handmade) -> None:
    store = containers_storage("s", made.root)
    box = await store.container("box")
    top = (await store.image("x:1")).layers[-1]
    assert box.guard is not None
    assert top.guard is not None
    (removed,) = made.containers
    made.containers.clear()
    made.save()
    top.guard()
    with pytest.raises(SourceChanged, match="container box"):
        box.guard()
    made.containers.append({**removed, "created": "2025-01-01T00:00:00Z"})
    made.save()
    with pytest.raises(SourceChanged):
        box.guard()


async def test_end_check_of_a_broken_list(made: Handmade) -> None:
    """An end check that cannot be made is none that was passed."""
    store = containers_storage("s", made.root)
    box = await store.container("box")
    assert box.guard is not None
    (made.root / "overlay-layers/layers.json").write_text("[")
    with pytest.raises(StoreDamaged):
        box.guard()
    (made.root / "overlay-layers/layers.json").unlink()
    with pytest.raises(SourceChanged):
        box.guard()
    made.save()
    box.guard()
    (made.root / "overlay-containers/containers.json").write_text("[")
    with pytest.raises(StoreDamaged):
        box.guard()


async def test_nothing_stays_open(made: Handmade) -> None:
    store = containers_storage("s", made.root)
    await store.images()
    made.save()
    before = leaks.held()
    made.save()
    for listing in (await store.images(), await store.layers(), await store.containers()):
        for each in listing:
            guard = getattr(each, "guard", None)
            if guard is not None:
                guard()
    (made.root / "overlay-layers/layers.json").write_text("[")
    with pytest.raises(StreamerError):
        await store.layers()
    assert [each for each in leaks.held().beyond(before) if "thread" not in str(each).lower()] == []


async def test_deep_stacks(tmp_path: Path) -> None:
    """A stack is followed without recursion and only so far, and its chain is computed once for all."""
    made = Handmade(tmp_path / "root")
    parent: dict[str, str] = {}
    for number in range(10_000):
        diff = {"diff-digest": f"sha256:{number:064x}", "diff-size": 1024}
        made.layers.append({"id": f"{number:064x}", "created": "x", **diff, **parent})
        parent = {"parent": f"{number:064x}"}
    made.layers = made.layers[:0:-1]  # the base is missing
    listing = await containers_storage("s", made.save()).layers()
    assert len(listing.damaged) == 9999
    assert len({str(damaged.error) for damaged in listing.damaged}) == 1
    image = images.image()
    identity = made.image(image, "localhost/deep:1")
    made.layers.append({"id": "0" * 64, "diff-digest": "sha256:" + "0" * 64})
    made.images[-1]["layer"] = f"{9999:064x}"
    store = containers_storage("s", made.save())
    with pytest.raises(StoreDamaged, match="more than 512 layers"):
        await store.image(identity)
