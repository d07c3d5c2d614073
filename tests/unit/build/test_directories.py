"""Working directories: what is missing of them, as members of a layer."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import images
from support.archives import Record, entries
from support.images import directory, file, layer, symlink, whiteout

from streamer.build import directories
from streamer.errors import InvalidRequest
from streamer.mounts.table import MountTable
from streamer.stores.base import Image
from streamer.stores.local.store import LocalStore

BELOW = layer(
    directory("srv/", mode=0o2750, uid=7, gid=8),
    directory("srv/sub/", mode=0o700, uid=9),
    directory("gone/"),
    file("file", b"x"),
    symlink("link", "srv/sub"),
    symlink("absolute", "/srv"),
    symlink("dangling", "srv/none"),
    symlink("up", "../../srv"),
    symlink("loop", "loop"),
)
SRV = Record(b"srv/", "d", 0o2750, (7, 8))
SUB = Record(b"srv/sub/", "d", 0o700, (9, 0))


def new(*names: str, mode: int = 0o755) -> list[Record]:
    return [Record(name.encode(), "d", mode, (0, 0)) for name in names]


CASES: dict[str, list[Record]] = {
    "/": [],
    "/srv": [],
    "/srv/sub/": [],
    "/link": [],
    "/link/..": [],
    "/a": new("a/"),
    "/a/b/../c//.": new("a/", "a/c/"),
    "/../a": new("a/"),
    "/srv/new": [SRV, *new("srv/new/", mode=0o2755)],
    "/srv/sub/x/y": [SRV, SUB, *new("srv/sub/x/", "srv/sub/x/y/")],
    "/link/x": [SRV, SUB, *new("srv/sub/x/")],
    "/absolute/x": [SRV, *new("srv/x/", mode=0o2755)],
    "/srv/sub/../x": [SRV, *new("srv/x/", mode=0o2755)],
    "/up/x": [SRV, *new("srv/x/", mode=0o2755)],
    "/dangling/x": [SRV, *new("srv/none/", "srv/none/x/", mode=0o2755)],
    "/gone/x": new("gone/", "gone/x/"),
}


async def image(store: LocalStore) -> Image:
    made = images.image(BELOW, layer(whiteout("gone")), names=["a:1"])
    await store.import_archive(images.Bytes(images.pack(images.docker(made))))
    return await store.image("a:1")


def made(base: Image | None, path: str) -> list[Record]:
    table = MountTable()
    try:
        return entries(b"".join(directories.layer(table, base, path.encode())))
    finally:
        assert table.statistics().leases == 0


async def test_what_is_missing(tmp_path: Path) -> None:
    async with LocalStore.open(tmp_path) as store:
        base = await image(store)
        assert {path: made(base, path) for path in CASES} == CASES


@pytest.mark.parametrize("path", ["/file", "/file/x", "/srv/../file/y"])
async def test_what_is_in_the_way(tmp_path: Path, path: str) -> None:
    async with LocalStore.open(tmp_path) as store:
        with pytest.raises(InvalidRequest, match="file is no directory"):
            made(await image(store), path)


async def test_links_in_circles(tmp_path: Path) -> None:
    async with LocalStore.open(tmp_path) as store:
        with pytest.raises(InvalidRequest, match="symbolic links"):
            made(await image(store), "/loop/x")


def test_on_nothing() -> None:
    assert made(None, "/a/b") == new("a/", "a/b/")
    assert b"".join(directories.layer(MountTable(), None, b"/")) == bytes(1024)
