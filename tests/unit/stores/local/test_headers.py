"""Whose a layer's files are, as the store keeps it: the members of its tar, each with the place that it was put at."""

from __future__ import annotations

import os
import shutil
from contextlib import closing
from pathlib import Path

import pytest
from support import images
from support.images import directory, file, layer, link, symlink, whiteout

from streamer.errors import SourceChanged, StoreDamaged
from streamer.stores.local.headers import headers
from streamer.stores.local.store import LocalStore

BASE = layer(directory("real/", uid=1), symlink("below", "real"))
TOP = layer(
    directory("./", uid=4),
    directory("usr/", mode=0o2755, gid=5),
    symlink("alias", "/usr", uid=6),
    file("./usr//a", b"a", uid=7),
    directory("alias/d/", uid=8),
    file("alias/empty", uid=9),
    symlink("alias/s", "a"),
    link("alias/hard", "alias/empty"),
    link("usr/harder", "usr/a"),
    file("below/f", b"f", uid=10),
    whiteout("gone"),
    file("x/../y", b"y", uid=11),
    link("alias/l", "below/f"),
    link("m", "alias/a"),
    file("z", b"z", uid=12),
)
PLACES = [
    (b"", 4, b""),
    (b"usr", 0, b""),
    (b"alias", 6, b"/usr"),
    (b"usr/a", 7, b""),
    (b"usr/d", 8, b""),
    (b"usr/empty", 9, b""),
    (b"usr/s", 0, b"a"),
    (b"usr/hard", 0, b"usr/empty"),
    (b"usr/harder", 0, b"usr/a"),
    (b"real/f", 10, b""),
    (b".wh.gone", 0, b""),
    (b"y", 11, b""),
    (b"usr/l", 0, b"real/f"),
    (b"m", 0, b"usr/a"),
    (b"z", 12, b""),
]


async def folder(place: Path) -> Path:
    """The directory of the topmost layer of an image in a new store."""
    async with LocalStore.open(place / "state") as store:
        await store.import_archive(images.Bytes(images.pack(images.docker(images.image(BASE, TOP, names=["a:1"])))))
        made = await store.image("a:1")
        assert made.layers[-1].snapshot is not None
        return Path(os.fsdecode(made.layers[-1].snapshot.lowers[0])).parent


def told(path: Path) -> list[tuple[bytes, int, bytes]]:
    with closing(headers(os.fsencode(path), "sha256:" + "1" * 64, "mine")) as found:
        return [(place, entry.uid, entry.linkname) for place, entry in found]


async def test_places(tmp_path: Path) -> None:
    assert told(await folder(tmp_path)) == PLACES


async def test_a_layer_that_was_removed(tmp_path: Path) -> None:
    path = await folder(tmp_path)
    shutil.rmtree(path)
    with pytest.raises(SourceChanged, match="layer 111111111111 of store mine was removed meanwhile"):
        told(path)


async def test_damage(tmp_path: Path) -> None:
    records = await folder(tmp_path) / "tar-split.json.gz"
    records.write_bytes(records.read_bytes()[:-20])
    with pytest.raises(StoreDamaged, match=r"tar-split.json.gz of layer 111111111111 of store mine cannot be read"):
        told(records.parent)


async def test_nothing_stays_open(tmp_path: Path) -> None:
    path = await folder(tmp_path)
    before = os.listdir("/proc/self/fd")
    found = headers(os.fsencode(path), "sha256:" + "1" * 64, "mine")
    next(found)
    found.close()
    assert os.listdir("/proc/self/fd") == before
