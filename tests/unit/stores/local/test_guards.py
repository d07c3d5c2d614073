"""The end check of every record: which directory it watches, and that making it stays cheap."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from support import images
from support.images import file, layer

from streamer.errors import SourceChanged
from streamer.stores import assembly
from streamer.stores.local.store import LocalStore

MADE = images.image(layer(file("a", b"a")), layer(file("b", b"b")), names=["a:1"])


async def take(store: LocalStore, *made: images.MadeImage) -> None:
    await store.import_archive(images.Bytes(images.pack(images.docker(*made))))


def replaced(path: bytes) -> None:
    os.rename(path, path + b".old")
    os.mkdir(path)


async def test_a_layer_that_came_back_is_another_one(tmp_path: Path) -> None:
    """What a lease holds open keeps its number; a file system gives any other number to the next directory."""
    async with LocalStore.open(tmp_path) as store:
        await take(store, MADE)
        for _ in range(10):
            image = await store.image("a:1")
            held = [os.open(path, os.O_RDONLY) for path in image.layers[-1].snapshot.layers]
            try:
                await store.remove_image("a:1")
                await take(store, MADE)
                for each in image.layers:
                    assert each.guard is not None
                    with pytest.raises(SourceChanged):
                        each.guard()
            finally:
                for fd in held:
                    os.close(fd)


async def test_the_directory_that_is_read_is_the_one_that_is_watched(tmp_path: Path) -> None:
    async with LocalStore.open(tmp_path) as store:
        await take(store, MADE)
        await store.create("a:1", "box")
        container = await store.container("box")
        assert container.snapshot.upper is not None
        assert container.guard is not None
        container.guard()
        replaced(container.snapshot.upper)
        with pytest.raises(SourceChanged, match="container box"):
            container.guard()
        container, image = await store.container("box"), await store.image("a:1")
        replaced(image.layers[0].snapshot.layers[0])
        for guard in (container.guard, *(each.guard for each in image.layers)):
            assert guard is not None
            with pytest.raises(SourceChanged, match="layer"):
                guard()


async def test_a_layer_is_looked_at_once_per_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tars = [layer(file(f"f{number}")) for number in range(12)]
    made = [images.image(*tars, names=[f"many:{number}"], author=str(number)) for number in range(5)]
    async with LocalStore.open(tmp_path) as store:
        await take(store, *made)
        looks: list[bytes] = []
        identity = assembly._identity

        def counted(path: bytes) -> Any:
            looks.append(path)
            return identity(path)

        monkeypatch.setattr(assembly, "_identity", counted)
        for answer in (store.images(), store.image("many:1"), store.layers(), store.named("many")):
            looks.clear()
            assert await answer
            assert len(looks) == len(set(looks)) == 12
        image = await store.image("many:3")
        assert [len(each.snapshot.layers) for each in image.layers] == list(range(1, 13))
        looks.clear()
        assert image.layers[4].guard is not None
        image.layers[4].guard()
        assert len(looks) == 5
