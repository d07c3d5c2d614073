"""Look-ups across stores: what is in several, and what one store that fails does to the rest: nothing."""

from __future__ import annotations

import anyio
import pytest
from support import images
from support.images import file, layer
from support.indexes import MemoryIndex, store

from streamer.errors import Ambiguous, EngineUnreachable, InvalidReference, InvalidRequest, NotFound
from streamer.stores.catalog import Catalog
from streamer.stores.index import Index, IndexedStore

ONE = images.image(layer(file("a", b"1")))
TWO = images.image(layer(file("a", b"2")))


def catalog(**kept: MemoryIndex) -> Catalog:
    for name, index in kept.items():
        index.store = name
    return Catalog({name: store(index) for name, index in kept.items()})


async def _unreachable() -> Index:
    raise EngineUnreachable("containerd does not answer")


async def test_the_same_image_twice() -> None:
    both = catalog(a=MemoryIndex().add(ONE, "x:1"), b=MemoryIndex().add(ONE, "x:1"))
    assert [(image.store, image.id) for image in await both.images()] == [("a", ONE.id), ("b", ONE.id)]
    for text in ("x:1", ONE.id):
        with pytest.raises(Ambiguous, match=r"in several stores \(a, b\)") as raised:
            await both.image(text)
        assert raised.value.details["candidates"] == [{"store": "a", "id": ONE.id}, {"store": "b", "id": ONE.id}]
        assert (await both.image(text, "b")).store == "b"
    with pytest.raises(Ambiguous):
        await both.named("x")
    assert [image.store for _, image in await both.named("x", "a")] == ["a"]


async def test_one_layer_in_two_stores_is_one_layer() -> None:
    both = catalog(a=MemoryIndex().add(ONE), b=MemoryIndex().add(ONE).add(TWO))
    assert (await both.layer(ONE.diff_ids[0])).store == "a"
    assert (await both.layer(TWO.diff_ids[0])).store == "b"
    assert len(await both.layers()) == 3


async def test_a_store_that_fails() -> None:
    good = store(MemoryIndex("good").add(ONE, "x:1"))
    bad = IndexedStore("bad", "containerd:/s", _unreachable)
    both = Catalog({"bad": bad, "good": good})
    found = await both.images()
    assert [image.id for image in found] == [ONE.id]
    assert [(each.store, each.id, each.error.code) for each in found.damaged] == [("bad", "", "engine_unreachable")]
    silent: list[tuple[str, str]] = []
    both.on_silent = lambda each, error: silent.append((each.name, error.code))
    assert (await both.image("x:1")).store == "good"
    assert silent == [("bad", "engine_unreachable")]  # it might have it as well
    with pytest.raises(EngineUnreachable):  # it might be there
        await both.image("y:1")
    with pytest.raises(EngineUnreachable):
        await both.images("bad")
    with pytest.raises(NotFound, match="in store good"):
        await both.image("y:1", "good")


async def test_unknown_store() -> None:
    with pytest.raises(InvalidRequest, match="known stores: a"):
        await catalog(a=MemoryIndex()).images("b")


async def test_a_store_that_hangs_keeps_readiness_from_nobody() -> None:
    async def hang() -> Index:
        await anyio.sleep_forever()
        raise AssertionError

    both = Catalog({"hung": IndexedStore("hung", "containerd:/s", hang), "good": store(MemoryIndex("good"))})
    with anyio.fail_after(60):
        failed = await both.health(1)
    assert {name: error.code for name, error in failed.items()} == {"hung": "engine_unreachable"}


async def test_stores_are_asked_at_once() -> None:
    """Each waits for the other to be asked: one after another they would wait for ever."""
    arrived = {"a": anyio.Event(), "b": anyio.Event()}

    def met(name: str, other: str) -> IndexedStore:
        async def read() -> Index:
            arrived[name].set()
            await arrived[other].wait()
            return MemoryIndex(name)

        return IndexedStore(name, f"{name}:/", read)

    with anyio.fail_after(60):
        assert not (await Catalog({"a": met("a", "b"), "b": met("b", "a")}).images()).items


async def test_an_unexpected_error_comes_out_as_it_is() -> None:
    async def read() -> Index:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await Catalog({"a": IndexedStore("a", "a:/", read)}).images()


async def test_a_whole_name_wins_over_the_beginning_of_an_id() -> None:
    begins = ONE.id[7:11]
    both = catalog(a=MemoryIndex().add(ONE), b=MemoryIndex().add(TWO, f"{begins}:latest"))
    assert (await both.image(begins)).id == TWO.id
    clear = MemoryIndex(containers={"ab" * 32: ("cd",)})
    unclear = MemoryIndex(containers={"cd" * 32: (), "cd" * 31 + "ef": ()})
    assert (await catalog(a=unclear, b=clear).container("cd")).id == "ab" * 32
    with pytest.raises(Ambiguous):
        await catalog(a=unclear, b=MemoryIndex()).container("cd")


async def test_names_of_a_stores_own_are_names_as_well() -> None:
    theirs = store(MemoryIndex("theirs").add(ONE, "localhost/x:1"), local_names="localhost")
    both = Catalog({"ours": store(MemoryIndex("ours").add(TWO, "x:1")), "theirs": theirs})
    with pytest.raises(Ambiguous, match=r"\(ours, theirs\)"):
        await both.image("x:1")


async def test_a_name_that_only_one_store_may_have() -> None:
    """Pods' containers have longer names than some stores know any."""
    long = "app_" + "x" * 300
    both = catalog(a=MemoryIndex(), b=MemoryIndex(containers={"ab" * 32: (long,)}))
    assert (await both.container(long)).name == long
    with pytest.raises(InvalidReference):
        await both.container(long + "y")
