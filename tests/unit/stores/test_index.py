"""The rule for references that all read-only stores share."""

from __future__ import annotations

from typing import NoReturn

import pytest
from support import images
from support.images import file, layer
from support.indexes import MemoryIndex, store

from streamer.errors import (
    Ambiguous,
    InvalidReference,
    NotFound,
    NotPermitted,
    StoreDamaged,
    StreamerError,
    Unsupported,
)
from streamer.oci import reference as references
from streamer.oci.reference import Reference
from streamer.stores.index import IndexedStore

ONE = images.image(layer(file("a", b"1")))
TWO = images.image(layer(file("a", b"1")), layer(file("b", b"2")))
MANIFEST = "sha256:" + "ab" * 32


async def test_several_platforms_under_one_name_give_the_first() -> None:
    made = store(MemoryIndex().add(ONE, "x:1").add(TWO, "x:1"))
    assert (await made.image("x:1")).id == ONE.id
    assert [(name.familiar, image.id) for name, image in await made.named("x")] == [("x:1", ONE.id)]
    assert (await made.image(TWO.id)).names == (references.parse("x:1"),)


async def test_names_of_the_stores_own() -> None:
    made = store(MemoryIndex().add(ONE, "localhost/x:1"), local_names="localhost")
    for text in ("x:1", "localhost/x:1", "docker.io/library/x:1"):
        assert (await made.image(text)).id == ONE.id
    assert [name.familiar for name, _ in await made.named("x")] == ["localhost/x:1"]
    with pytest.raises(NotFound):
        await made.image("quay.io/x:1")
    with pytest.raises(NotFound):
        await store(MemoryIndex().add(ONE, "localhost/x:1")).image("x:1")


async def test_a_registry_comes_before_the_stores_own() -> None:
    made = store(MemoryIndex().add(ONE, "localhost/x:1").add(TWO, "x:1"), local_names="localhost")
    assert (await made.image("x:1")).id == TWO.id


async def test_digests_of_manifests() -> None:
    index = MemoryIndex().add(ONE, "x:1")
    index.aliases[MANIFEST] = (ONE.id,)
    index.names[Reference("docker.io/library/x", None, MANIFEST)] = (ONE.id,)
    made = store(index)
    for text in (MANIFEST, "abababab", "sha256:abab", f"x@{MANIFEST}", f"x:1@{MANIFEST}"):
        assert (await made.image(text)).id == ONE.id, text
    assert [name.familiar for name, _ in await made.named("x")] == ["x:1"]
    with pytest.raises(NotFound):
        await made.image("x@sha256:" + "cd" * 32)


async def test_an_alias_and_an_id_may_begin_alike() -> None:
    index = MemoryIndex().add(ONE).add(TWO)
    index.aliases[f"sha256:{ONE.id[7:13]}" + "0" * 58] = (TWO.id,)
    with pytest.raises(Ambiguous) as raised:
        await store(index).image(ONE.id[7:13])
    assert raised.value.details["candidates"] == [
        {"store": "memory", "id": identity} for identity in sorted([ONE.id, TWO.id])
    ]


async def test_containers() -> None:
    index = MemoryIndex(containers={"ab" * 32: ("web", "other"), "ac" * 32: ("ab",), "k8s-like_id": ()})
    made = store(index)
    for text, expected in [("web", "ab" * 32), ("other", "ab" * 32), ("ab", "ac" * 32), ("aba", "ab" * 32)]:
        assert (await made.container(text)).id == expected, text
    assert (await made.container("k8s-like_id")).name == "k8s-like_id"
    with pytest.raises(Ambiguous):
        await made.container("a")
    index.containers["ae" * 32] = ("web",)
    with pytest.raises(Ambiguous, match="several containers are named 'web'"):
        await made.container("web")
    for text, error in [("zzz", NotFound), ("", InvalidReference), ("a/b", InvalidReference), ("..", InvalidReference)]:
        with pytest.raises(error):
            await made.container(text)


async def test_what_is_damaged_hides_nothing_else() -> None:
    index = MemoryIndex(containers={"ab" * 32: ("web",), "ac" * 32: ("box",)}).add(ONE, "x:1").add(TWO, "y:1")
    chain = images.chain_ids(TWO.diff_ids)[1]
    index.broken = {chain, "ab" * 32}
    made = store(index)
    found = await made.images()
    assert [image.id for image in found] == [ONE.id]
    assert [(each.id, each.names) for each in found.damaged] == [(TWO.id, ("y:1",))]
    assert [each.id for each in (await made.layers()).damaged] == [chain]
    containers = await made.containers()
    assert [each.name for each in containers] == ["box"]
    assert [(each.id, each.names) for each in containers.damaged] == [("ab" * 32, ("web",))]
    with pytest.raises(StoreDamaged, match=f"{chain}.json"):
        await made.image("y:1")
    assert (await made.image("x:1")).id == ONE.id


class Missing(StoreDamaged):
    """Damage that a store tells apart."""


@pytest.mark.parametrize("kind", [Missing, NotPermitted])
async def test_what_is_wrong_names_its_store(kind: type[StreamerError]) -> None:
    error = kind("index.json is missing", file="index.json")
    error.add_note("/srv/index.json")

    async def read() -> MemoryIndex:
        raise error

    made = IndexedStore("memory", "memory:/nowhere", read)
    for asked in (
        made.images,
        made.containers,
        made.layers,
        lambda: made.image("x"),
        lambda: made.named("x"),
        lambda: made.container("x"),
        lambda: made.layer(MANIFEST),
    ):
        with pytest.raises(kind) as raised:
            await asked()
        assert str(raised.value) == "store memory: index.json is missing"
        assert (type(raised.value), raised.value.details) == (kind, {"file": "index.json"})
        assert raised.value.__notes__ == ["/srv/index.json"]
        assert raised.value.__cause__ is error


async def test_records_name_their_store() -> None:
    index = MemoryIndex(containers={"ab" * 32: ("web",)}).add(ONE, "x:1")
    chain = images.chain_ids(ONE.diff_ids)[0]
    index.broken = {ONE.id, "ab" * 32, chain}
    made = store(index)
    for told, listed, asked in (
        (ONE.id, made.images, lambda: made.image("x:1")),
        (ONE.id, made.images, lambda: made.named("x")),
        ("ab" * 32, made.containers, lambda: made.container("web")),
        (chain, made.layers, lambda: made.layer(chain)),
    ):
        message = f"store memory: {told}.json cannot be read"
        assert [str(each.error) for each in (await listed()).damaged] == [message]
        with pytest.raises(StoreDamaged) as raised:
            await asked()
        assert str(raised.value) == message


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (StoreDamaged("a.json of store memory is missing"), "a.json of store memory is missing"),
        (StoreDamaged("a.json of store memory"), "a.json of store memory"),
        (StoreDamaged("a.json of store memory-2"), "store memory: a.json of store memory-2"),
        (Unsupported("it is encrypted"), "it is encrypted"),
    ],
)
async def test_no_store_is_named_twice(error: StreamerError, expected: str) -> None:
    async def read() -> MemoryIndex:
        raise error

    with pytest.raises(type(error)) as raised:
        await IndexedStore("memory", "memory:/nowhere", read).images()
    assert str(raised.value) == expected


async def test_a_container_whose_name_cannot_be_read_is_not_called_removed() -> None:
    index = MemoryIndex(containers={"ab" * 32: (), "ac" * 32: ("box",), "ad" * 32: (), "gone": ()})
    index.broken = {"ab" * 32, "ac" * 32}
    made = store(index)
    for text in ("web", "ff"):
        with pytest.raises(StoreDamaged) as raised:
            await made.container(text)
        assert str(raised.value) == (
            f"there is no container '{text}' among those of store memory that can be read; "
            f"1 cannot be: {'ab' * 32}.json cannot be read"
        )
    assert (await made.container("ad")).id == "ad" * 32
    with pytest.raises(InvalidReference):
        await made.container("a/b")
    index.broken = {"ac" * 32}
    with pytest.raises(NotFound):
        await made.container("web")


async def test_a_container_whose_name_may_not_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def container(self: MemoryIndex, identity: str) -> NoReturn:
        raise NotFound("removed meanwhile") if identity == "gone" else NotPermitted(f"{identity} may not be read")

    monkeypatch.setattr(MemoryIndex, "container", container)
    with pytest.raises(NotPermitted, match=r"there is no container 'web' among .* 2 cannot be: one may not be read"):
        await store(MemoryIndex(containers={"one": (), "two": (), "gone": ()})).container("web")
    with pytest.raises(NotFound):
        await store(MemoryIndex(containers={"gone": ()})).container("web")
