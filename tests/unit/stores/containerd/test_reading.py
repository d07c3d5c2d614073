"""Images that are removed, or made anew, while their namespace is read."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from streamer.errors import NotFound, StoreDamaged
from streamer.stores.containerd.api.containers_pb2 import ListContainersResponse
from streamer.stores.containerd.api.images_pb2 import Image, ListImagesResponse
from streamer.stores.containerd.api.introspection_pb2 import PluginsResponse
from streamer.stores.containerd.api.tasks_pb2 import ListTasksResponse
from streamer.stores.containerd.methods import LIST_CONTAINERS, LIST_CONTENT, LIST_IMAGES, LIST_TASKS, PLUGINS
from streamer.stores.containerd.store import ContainerdStore

NAME = "docker.io/library/x:1"


def listed(updated: int) -> ListImagesResponse:
    """An image of whose content there is nothing."""
    made = Image(name=NAME)
    made.target.digest, made.target.size = f"sha256:{'0' * 64}", 7
    made.target.media_type = "application/vnd.oci.image.manifest.v1+json"
    made.updated_at.seconds = updated
    return ListImagesResponse(images=[made])


@pytest.fixture
def reading(engine: Any) -> Any:
    engine.on(PLUGINS, PluginsResponse())
    engine.on(LIST_CONTAINERS, ListContainersResponse())
    engine.on(LIST_TASKS, ListTasksResponse())
    engine.on(LIST_CONTENT, [])
    return engine


async def test_what_was_removed_meanwhile_is_not_damaged(reading: Any) -> None:
    answers = iter([listed(1), *[ListImagesResponse()] * 2])
    reading.on(LIST_IMAGES, lambda _: next(answers))
    async with ContainerdStore.open("s", str(reading.socket), "tests") as store:
        with pytest.raises(NotFound):
            await store.image("x:1")


async def test_what_is_back_by_now_is_read_anew(reading: Any) -> None:
    answers = iter([listed(1), listed(2), ListImagesResponse()])
    reading.on(LIST_IMAGES, lambda _: next(answers))
    async with ContainerdStore.open("s", str(reading.socket), "tests") as store:
        listing = await store.images()
    assert (listing.items, listing.damaged) == ((), ())


async def test_what_stays_is_damaged_at_once(reading: Any) -> None:
    reading.on(LIST_IMAGES, listed(1))
    async with ContainerdStore.open("s", str(reading.socket), "tests") as store:
        with pytest.raises(StoreDamaged, match=NAME):
            await store.image("x:1")
    assert len(reading.questions(LIST_IMAGES)) == 2


async def test_what_never_stays_ends(reading: Any) -> None:
    times = itertools.count(1)
    reading.on(LIST_IMAGES, lambda _: listed(next(times)))
    async with ContainerdStore.open("s", str(reading.socket), "tests") as store:
        with pytest.raises(StoreDamaged, match=NAME):
            await store.image("x:1")
