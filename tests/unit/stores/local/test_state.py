"""The directory of a store: never one that is somebody else's, and nothing of a person's is ever swept."""

from __future__ import annotations

import os
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support import images
from support.images import file, layer

from streamer.errors import Conflict, StorageFull, StoreDamaged, StreamerError
from streamer.stores.local import catalog
from streamer.stores.local.state import FOLDERS, State
from streamer.stores.local.store import LocalStore

BASE = images.pack(images.docker(images.image(layer(file("a", b"x")), names=["base:1"])))


async def used(place: Path) -> str:
    """A store with an image and a container that somebody has used; its ID."""
    async with LocalStore.open(place) as store:
        await store.import_archive(images.Bytes(BASE))
        made = await store.create("base:1", "box")
    (place / "containers" / made.id / "upper" / "precious").write_text("data")
    return made.id


def files(place: Path) -> list[str]:
    return sorted(str(path.relative_to(place)) for path in place.rglob("*") if path.name == "precious")


@pytest.mark.parametrize("folder", FOLDERS)
async def test_a_directory_of_somebody_else_is_left_as_it_is(tmp_path: Path, folder: str) -> None:
    """A project with a `staging/`, `/var/lib` with its `containers/`: a store would sweep what no row of it names."""
    theirs = tmp_path / "theirs" / folder / "site"
    theirs.mkdir(parents=True)
    (theirs / "index.html").write_text("theirs")
    with pytest.raises(Conflict, match=f"is no store of streamer .* and its {folder}/ was not made by it"):
        async with LocalStore.open(tmp_path / "theirs"):
            pass
    assert [path.relative_to(tmp_path) for path in sorted(tmp_path.rglob("*")) if path.is_file()] == [
        Path("theirs") / folder / "site" / "index.html"
    ]


async def test_an_empty_directory_of_somebody_else_is_not_taken_either(tmp_path: Path) -> None:
    """What he puts into it later would be swept."""
    (tmp_path / "staging").mkdir(0o755)
    with pytest.raises(Conflict, match="its staging/ was not made by it"):
        async with LocalStore.open(tmp_path):
            pass
    assert os.listdir(tmp_path) == ["staging"]


async def test_odd_things_in_the_directories_of_a_store_stay(tmp_path: Path) -> None:
    async with LocalStore.open(tmp_path):
        pass
    for folder in ("layers", "containers", "staging"):
        (tmp_path / folder / ".DS_Store").touch()
        (tmp_path / folder / "0123456789abcdef0").symlink_to("elsewhere")
    async with LocalStore.open(tmp_path) as store:
        await store.import_archive(images.Bytes(BASE))
        await store.remove_image("base:1")
    assert (tmp_path / "staging/.DS_Store").exists()


async def test_what_a_crash_at_its_first_start_left_is_taken(tmp_path: Path) -> None:
    for folder in FOLDERS:
        (tmp_path / folder).mkdir(0o700)
    async with LocalStore.open(tmp_path) as store:
        assert (await store.images()).items == ()


async def test_files_beside_a_store_stay(tmp_path: Path) -> None:
    (tmp_path / "README").write_text("mine")
    for _ in range(2):
        async with LocalStore.open(tmp_path):
            pass
    assert (tmp_path / "README").read_text() == "mine"


def _foreign(place: Path) -> None:
    (place / "streamer.db").unlink()
    with sqlite3.connect(place / "streamer.db") as database:
        database.execute("CREATE TABLE theirs (a)")
    database.close()


LOST: dict[str, tuple[Callable[[Path], object], type[StreamerError]]] = {
    "missing": (lambda place: (place / "streamer.db").unlink(), Conflict),
    "empty": (lambda place: (place / "streamer.db").write_bytes(b""), Conflict),
    "of something else": (_foreign, StoreDamaged),
    "no database": (lambda place: (place / "streamer.db").write_bytes(b"text" * 1000), StoreDamaged),
}


@pytest.mark.parametrize("name", LOST)
async def test_without_its_database_a_store_is_left_as_it_is(tmp_path: Path, name: str) -> None:
    await used(tmp_path)
    lose, kind = LOST[name]
    for path in tmp_path.glob("streamer.db-*"):
        path.unlink()
    lose(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(kind):
        async with LocalStore.open(tmp_path):
            pass
    after = [path for path in sorted(tmp_path.rglob("*")) if not path.name.startswith(("streamer.db", "lock"))]
    assert after == [path for path in before if not path.name.startswith(("streamer.db", "lock"))]


async def test_a_database_from_a_backup_costs_nobody_what_he_made_since(tmp_path: Path) -> None:
    async with LocalStore.open(tmp_path) as store:
        await store.import_archive(images.Bytes(BASE))
    for path in tmp_path.glob("streamer.db-*"):
        path.unlink()
    backup = (tmp_path / "streamer.db").read_bytes()
    identity = await used(tmp_path)
    async with LocalStore.open(tmp_path) as store:
        unused = await store.create("base:1", "unused")
    (tmp_path / "streamer.db").write_bytes(backup)
    async with LocalStore.open(tmp_path):
        assert files(tmp_path) == [f"containers/{identity}/upper/precious"]
        assert not (tmp_path / "containers" / unused.id).exists(), "there is nothing in it that anybody could miss"


async def test_a_removal_that_was_killed_goes_on_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = await used(tmp_path)

    def killed(*_: object) -> None:
        raise OSError(5, "killed")

    async with LocalStore.open(tmp_path) as store:
        with monkeypatch.context() as patch:
            patch.setattr(State, "discard", killed)
            with pytest.raises(OSError, match="killed"):
                await store.remove_container("box")
    assert (tmp_path / "containers" / identity / "upper/precious").exists()
    async with LocalStore.open(tmp_path):
        assert not (tmp_path / "containers" / identity).exists()


async def test_a_removal_that_failed_leaves_no_sign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database from a backup must not make it go on later."""
    identity = await used(tmp_path)

    async def full(*_: object) -> None:
        raise StorageFull("no space")

    async with LocalStore.open(tmp_path) as store:
        with monkeypatch.context() as patch:
            patch.setattr(catalog, "forget_container", full)
            with pytest.raises(StorageFull):
                await store.remove_container("box")
    assert sorted(os.listdir(tmp_path / "containers" / identity)) == ["empty", "merged", "upper", "work"]


@pytest.mark.root
@pytest.mark.parametrize("table", ["layers", "containers"])
async def test_no_row_leads_out_of_the_store(tmp_path: Path, table: str) -> None:
    """A store may be anybody's; who opens it as root must not be made to delete what lies elsewhere."""
    victim = tmp_path / "victim/precious"
    victim.mkdir(parents=True)
    place = tmp_path / "store"
    async with LocalStore.open(place) as store:
        await store.import_archive(images.Bytes(BASE))
        await store.create("base:1", "box")
    with sqlite3.connect(place / "streamer.db") as database:
        database.execute("PRAGMA foreign_keys = OFF")
        if table == "layers":
            database.execute(
                "INSERT INTO layers (chain, diff, parent, size) VALUES (?, ?, NULL, 1)",
                ("sha256:../../victim/precious", "sha256:" + "0" * 64),
            )
        else:
            database.execute("UPDATE containers SET id = '../../victim/precious'")
    database.close()
    with pytest.raises(StreamerError, match=r"none of its own|not a digest"):
        async with LocalStore.open(place) as store:
            await store.remove_container("box", force=True)
    assert victim.exists()


@pytest.mark.root
async def test_a_store_is_on_one_file_system(tmp_path: Path) -> None:
    async with LocalStore.open(tmp_path / "store"):
        pass
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", tmp_path / "store/layers"], check=True)
    try:
        with pytest.raises(Conflict, match="layers is on another file system"):
            async with LocalStore.open(tmp_path / "store"):
                pass
    finally:
        subprocess.run(["umount", tmp_path / "store/layers"], check=True)


ODD: dict[str, Callable[[Path], object]] = {
    "a link": lambda path: path.symlink_to("elsewhere"),
    "a directory": lambda path: path.mkdir(),
    "a FIFO": os.mkfifo,
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ODD)
async def test_a_database_that_is_none(tmp_path: Path, name: str) -> None:
    ODD[name](tmp_path / "streamer.db")
    with pytest.raises(StreamerError):
        async with LocalStore.open(tmp_path):
            pass


@pytest.mark.root
async def test_on_a_read_only_file_system(tmp_path: Path) -> None:
    async with LocalStore.open(tmp_path / "store"):
        pass
    subprocess.run(["mount", "--bind", tmp_path / "store", tmp_path / "store"], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", tmp_path / "store"], check=True)
        with pytest.raises(StreamerError, match=r"read-only|cannot be written"):
            async with LocalStore.open(tmp_path / "store"):
                pass
    finally:
        subprocess.run(["umount", tmp_path / "store"], check=True)


async def test_a_copy_without_extended_attributes_is_told(tmp_path: Path) -> None:
    """With them goes what layers delete: it would be back, and nothing would say so."""
    await used(tmp_path / "store")
    for options, kind in ((["--xattrs", "--xattrs-include=*"], None), (["--no-xattrs"], StoreDamaged)):
        copy = tmp_path / f"copy{len(options)}"
        copy.mkdir()
        packed = subprocess.run(
            ["tar", "-C", tmp_path / "store", *options, "-cf", "-", "."], check=True, capture_output=True
        )
        subprocess.run(["tar", "-C", copy, *options, "-xf", "-"], check=True, input=packed.stdout)
        if kind is None:
            async with LocalStore.open(copy) as store:
                assert len((await store.containers()).items) == 1
        else:
            with pytest.raises(kind, match="copied without extended attributes"):
                async with LocalStore.open(copy):
                    pass
