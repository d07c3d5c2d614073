"""What a name stands for that `streamer rm` is given."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support import images
from support.images import file, layer

from streamer.cli.removing import removed
from streamer.errors import Ambiguous, NotFound
from streamer.stores.local.store import LocalStore


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[LocalStore]:
    async with LocalStore.open(tmp_path) as opened:
        await opened.import_archive(
            images.Bytes(images.pack(images.docker(images.image(layer(file("a", b"x")), names=["box:latest"]))))
        )
        yield opened


async def rm(store: LocalStore, ref: str) -> str:
    return await removed(store, ref, False, True, True)


async def test_a_name_is_meant_before_the_beginning_of_an_id(store: LocalStore) -> None:
    """Names such as `db` or `c` agree with one by chance."""
    image = await store.image("box")
    digits = image.id.removeprefix("sha256:")[:2]
    await store.create(image.id, digits)
    assert (await rm(store, digits)).startswith(f"removed container {digits} ")
    container = await store.create("box")
    await store.tag("box", container.id[:3])
    assert await rm(store, container.id[:3]) == f"removed name {container.id[:3]}:latest"


async def test_what_both_are_called_is_ambiguous(store: LocalStore) -> None:
    await store.create("box", "box")
    with pytest.raises(Ambiguous, match="'box' is a container and an image"):
        await rm(store, "box")
    with pytest.raises(NotFound, match="no container or image 'nothing'"):
        await rm(store, "nothing")
