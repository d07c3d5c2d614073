"""The directory of a store: never one that is somebody else's."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamer.errors import Conflict
from streamer.stores.local.state import FOLDERS
from streamer.stores.local.store import LocalStore


@pytest.mark.parametrize("folder", FOLDERS)
async def test_a_directory_of_somebody_else_is_left_as_it_is(tmp_path: Path, folder: str) -> None:
    """A project with a `staging/`, `/var/lib` with its `containers/`: a store would sweep what no row of it names."""
    theirs = tmp_path / "theirs" / folder / "site"
    theirs.mkdir(parents=True)
    (theirs / "index.html").write_text("theirs")
    with pytest.raises(Conflict, match=f"is no store of streamer .* and its {folder}/ is not empty"):
        async with LocalStore.open(tmp_path / "theirs"):
            pass
    assert [path.relative_to(tmp_path) for path in sorted(tmp_path.rglob("*")) if path.is_file()] == [
        Path("theirs") / folder / "site" / "index.html"
    ]


async def test_what_a_crash_at_its_first_start_left_is_taken(tmp_path: Path) -> None:
    for folder in FOLDERS:
        (tmp_path / folder).mkdir()
    async with LocalStore.open(tmp_path) as store:
        assert (await store.images()).items == ()


async def test_files_beside_a_store_stay(tmp_path: Path) -> None:
    (tmp_path / "README").write_text("mine")
    for _ in range(2):
        async with LocalStore.open(tmp_path):
            pass
    assert (tmp_path / "README").read_text() == "mine"
