"""The rule for references that all read-only stores share."""

from __future__ import annotations

import pytest
from support import images
from support.images import file, layer
from support.indexes import MemoryIndex, store

from streamer.errors import Ambiguous, InvalidReference, NotFound, StoreDamaged
from streamer.oci import reference as references
from streamer.oci.reference import Reference

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
