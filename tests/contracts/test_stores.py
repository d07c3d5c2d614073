"""What every store answers, whatever it keeps its layers in: the contract of `stores.base.Store`.

A store joins by a factory in `support/factories`: an async context manager that, given a scratch directory, yields a
store that holds just `IMAGES` and one container named `box` made from `shop/tool:1` (none where a store has no
containers), and a function that removes an image by ID.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from support import images, leaks, outlines
from support.images import directory, file, layer, whiteout

from streamer.errors import Ambiguous, InvalidReference, NotFound, SourceChanged, StreamerError
from streamer.export.image import Format, plan_images
from streamer.export.layer import plan_layer
from streamer.export.plan import Options
from streamer.mounts.mount import Mount
from streamer.mounts.table import MountTable
from streamer.oci import reference as references
from streamer.stores.base import Store
from streamer.stores.catalog import Catalog
from streamer.stores.local.store import LocalStore

BASE = layer(directory("etc/"), file("etc/passwd", b"root"), file("gone", b"gone"))
TOOL = images.image(BASE, layer(file("tool", b"1"), whiteout("gone")), names=["shop/tool:1", "shop/tool:latest"])
OTHER = images.image(BASE, layer(file("other", os.urandom(300_000))), names=["shop/tool:2", "other.org/x:1"])
BARE = images.image(layer(file("bare", b"b")))
IMAGES = [TOOL, OTHER, BARE]

Remove = Callable[[str], Awaitable[object]]
Factory = Callable[[Path], contextlib.AbstractAsyncContextManager[tuple[Store, Remove]]]


@contextlib.asynccontextmanager
async def local(folder: Path) -> AsyncIterator[tuple[Store, Remove]]:
    async with LocalStore.open(folder / "state") as store:
        for made in IMAGES:
            await store.import_archive(images.Bytes(images.pack(images.docker(made))))
        await store.create("shop/tool:1", "box")
        yield store, lambda identity: store.remove_image(identity, force=True)


STORES = ("local", "docker", "containers_storage", "containerd", "oci_layout")


@pytest.fixture(params=STORES)
def factory(request: pytest.FixtureRequest) -> Factory:
    """`support.factories.<store>.factory(folder, request)` for each store but our own: real engines made them."""
    name: str = request.param
    if name == "local":
        return local
    module = importlib.import_module(f"support.factories.{name}")
    return lambda folder: module.factory(folder, request)


async def test_lists(factory: Factory, tmp_path: Path) -> None:
    async with factory(tmp_path) as (store, _):
        assert {image.id for image in await store.images()} == {made.id for made in IMAGES}
        assert {image.id for image in await store.images() if not image.names} == {BARE.id}
        chains = {chain for made in IMAGES for chain in images.chain_ids(made.diff_ids)}
        assert {layer.chain_id for layer in await store.layers()} == chains
        assert [container.name for container in await store.containers()] == ["box"][: len(await store.containers())]
        assert ":" in store.location


async def test_image_by_any_reference(factory: Factory, tmp_path: Path) -> None:
    async with factory(tmp_path) as (store, _):
        for made, texts in [
            (TOOL, ["shop/tool:1", "shop/tool", "docker.io/shop/tool:latest", "index.docker.io/shop/tool:1"]),
            (OTHER, ["shop/tool:2", "other.org/x:1"]),
        ]:
            encoded = made.id.removeprefix("sha256:")
            for text in [*texts, made.id, encoded, encoded[:12], f"sha256:{encoded[:12]}", encoded[:6]]:
                image = await store.image(text)
                assert image.id == made.id, text
                assert image.store == store.name
                assert sorted(name.familiar for name in image.names) == sorted(made.names)
                assert image.config.data == made.data
                assert [layer.diff_id for layer in image.layers] == made.diff_ids


@pytest.mark.parametrize(
    ("reference", "error"),
    [
        ("missing", NotFound),
        ("shop/tool:3", NotFound),
        ("other.org/x", NotFound),
        ("sha256:" + "0" * 64, NotFound),
        ("0" * 64, NotFound),
        ("feedbeef0123", NotFound),
        ("shop/tool@sha256:" + "0" * 64, NotFound),
        ("UPPER", InvalidReference),
        ("a b", InvalidReference),
        ("", InvalidReference),
        ("../../etc/passwd", InvalidReference),
        ("sha256:../../etc", InvalidReference),
        ("shop/tool@sha256:123", InvalidReference),
        ("x" * 5000, InvalidReference),
        ("a'; DROP TABLE images; --", InvalidReference),
    ],
)
async def test_image_by_a_bad_reference(
    factory: Factory, reference: str, error: type[Exception], tmp_path: Path
) -> None:
    async with factory(tmp_path) as (store, _):
        with pytest.raises(error):
            await store.image(reference)


@pytest.mark.parametrize(
    ("reference", "error"),
    [
        ("missing", NotFound),
        ("0" * 64, NotFound),
        ("a/b", InvalidReference),
        ("", InvalidReference),
        ("..", InvalidReference),
    ],
)
async def test_container_by_a_bad_reference(
    factory: Factory, reference: str, error: type[Exception], tmp_path: Path
) -> None:
    async with factory(tmp_path) as (store, _):
        with pytest.raises(error):
            await store.container(reference)


@pytest.mark.parametrize(
    ("reference", "error"),
    [
        ("sha256:" + "0" * 64, NotFound),
        ("shop/tool", InvalidReference),
        ("sha256:../x", InvalidReference),
        ("", InvalidReference),
    ],
)
async def test_layer_by_a_bad_reference(
    factory: Factory, reference: str, error: type[Exception], tmp_path: Path
) -> None:
    async with factory(tmp_path) as (store, _):
        with pytest.raises(error):
            await store.layer(reference)


async def test_ambiguous_prefix(factory: Factory, tmp_path: Path) -> None:
    """Images until two IDs begin alike: seventeen at most for one digit."""
    made = [images.image(layer(file("n", str(number).encode()))) for number in range(17)]
    first: dict[str, images.MadeImage] = {}
    for each in made:
        pair = first.setdefault(each.id[7], each), each
        if pair[0] is not each:
            break
    folder = tmp_path
    IMAGES.extend(pair)
    try:
        async with factory(folder) as (store, _):
            with pytest.raises(Ambiguous) as raised:
                await store.image(pair[0].id[7])
            candidates = raised.value.details["candidates"]
            assert isinstance(candidates, list)
            assert {each["store"] for each in candidates} == {store.name}
            assert {pair[0].id, pair[1].id} <= {each["id"] for each in candidates}
    finally:
        del IMAGES[-2:]


async def test_named(factory: Factory, tmp_path: Path) -> None:
    async with factory(tmp_path) as (store, _):
        for text in ("shop/tool", "docker.io/shop/tool", "shop/tool:whatever"):
            found = await store.named(text)
            assert [(name.familiar, image.id) for name, image in found] == [
                ("shop/tool:1", TOOL.id),
                ("shop/tool:2", OTHER.id),
                ("shop/tool:latest", TOOL.id),
            ]
        assert await store.named("nobody") == []
        assert references.parse("shop/tool:1") in [name for name, _ in await store.named("shop/tool")]


async def test_container(factory: Factory, tmp_path: Path) -> None:
    async with factory(tmp_path) as (store, _):
        if not await store.containers():
            return  # a store without containers
        container = await store.container("box")
        assert container.image == TOOL.id
        assert references.parse(container.image_name).familiar.removeprefix("localhost/") == "shop/tool:1"
        assert container.mounted is None
        image = await store.image(TOOL.id)
        with container.held() as (snapshot, parent), image.layers[-1].held() as (top, _):
            assert parent is not None
            assert parent.upper is None
            assert snapshot.upper is not None
            # An engine may lay something of its own between the image and the container.
            assert parent.layers[-len(top.layers) :] == top.layers
            assert snapshot.lowers == parent.layers or snapshot.driver == "directory"
        for text in (container.id, container.id[:12]):
            assert await store.container(text) == container
        assert container.guard is not None
        container.guard()


async def test_layers(factory: Factory, tmp_path: Path) -> None:
    async with factory(tmp_path) as (store, _):
        image = await store.image(TOOL.id)
        for number, (found, data) in enumerate(zip(image.layers, TOOL.layers, strict=True)):
            assert found.chain_id == images.chain_ids(TOOL.diff_ids)[number]
            assert (await store.layer(found.diff_id)).diff_id == found.diff_id
            assert await store.layer(found.chain_id) == found
            if found.snapshot is not None or found.hold is not None:
                with found.held() as (snapshot, parent):
                    assert len(snapshot.layers) == (number + 1 if snapshot.driver == "overlay" else 1)
                    assert (parent is not None) == bool(number)
                    if parent is not None and snapshot.driver == "overlay":
                        assert parent.layers == snapshot.layers[1:]
                    assert all(os.path.isdir(path) and os.path.isabs(path) for path in snapshot.layers)
            if found.size is not None:
                assert found.size == len(data)


async def test_layers_are_assembled_byte_for_byte(factory: Factory, tmp_path: Path) -> None:
    async with factory(tmp_path) as (store, _):
        for found in await store.layers():
            if found.assemble is None:
                continue
            before = leaks.held()
            chunks = list(found.assemble())
            assert "sha256:" + hashlib.sha256(b"".join(chunks)).hexdigest() == found.diff_id
            # Few and large: what is small is gathered, except in front of something large.
            assert len(chunks) <= 1 + 2 * sum(map(len, chunks)) // (256 << 10)
            assert leaks.held().beyond(before) == []


async def test_layers_are_assembled_from_any_byte_to_any_other(factory: Factory, tmp_path: Path) -> None:
    async with factory(tmp_path) as (store, _):
        for found in await store.layers():
            if found.assemble is None:
                continue
            before = leaks.held()
            data = b"".join(found.assemble())
            for start, stop in outlines.spans(data, 10):
                assert b"".join(found.assemble(start, stop)) == data[start:stop], (start, stop)
            assert b"".join(found.assemble(700)) == data[700:]
            if found.size is not None:
                plan = plan_layer(found, Options())
                assert outlines.part(plan, 600, 1100) == data[600:1100]
                assert outlines.part(plan) == data
            assert leaks.held().beyond(before) == []


async def test_blobs_are_read_from_any_byte_to_any_other(factory: Factory, tmp_path: Path) -> None:
    async with factory(tmp_path) as (store, _):
        for found in await store.layers():
            if found.blob is None:
                continue
            before = leaks.held()
            data, size = b"".join(found.blob.read()), found.blob.descriptor.size
            assert "sha256:" + hashlib.sha256(data).hexdigest() == found.blob.descriptor.digest
            for start, stop in ((0, 0), (0, 1), (1, size - 1), (size // 2, None), (size - 1, size), (size, size + 5)):
                assert b"".join(found.blob.read(start, stop)) == data[start:stop], (start, stop)
            assert leaks.held().beyond(before) == []


async def test_saved_images_in_spans(factory: Factory, tmp_path: Path) -> None:
    async with factory(tmp_path) as (store, _):
        for format in Format:
            plan = await plan_images(Catalog({"s": store}), [TOOL.id], Options(), format)
            if plan.outline is None:
                assert all(each.blob is not None for each in (await store.image(TOOL.id)).layers)
                continue
            whole = outlines.part(plan)
            for start, stop in outlines.spans(whole, 30):
                assert outlines.part(plan, start, stop) == whole[start:stop], (start, stop)


async def test_no_span_of_a_saved_image_that_was_removed(factory: Factory, tmp_path: Path) -> None:
    # With content of its own: one that another namespace of an engine has as well may still be read, and is right.
    own = images.image(layer(file("own", secrets.token_bytes(32))), names=["shop/own:1"])
    IMAGES.append(own)
    try:
        async with factory(tmp_path) as (store, remove):
            plan = await plan_images(Catalog({"s": store}), [own.id], Options())
            assert plan.outline is not None
            with outlines.outlined(plan) as outline:
                await remove(own.id)
                for span in ((0, outline.size), (0, 1), (outline.size - 1, outline.size)):
                    with pytest.raises(StreamerError):
                        list(outline.part(span))
    finally:
        IMAGES.remove(own)


async def test_snapshots_show_the_image(factory: Factory, tmp_path: Path) -> None:
    async with factory(tmp_path) as (store, _):
        image = await store.image(TOOL.id)
        table = MountTable()
        for found, expected in zip(image.layers, [{"etc", "gone"}, {"etc", "tool"}], strict=True):
            if found.snapshot is None and found.hold is None:
                continue  # packed only
            with found.held() as (snapshot, _):
                mount = Mount(snapshot.layers, snapshot.userxattr)
                if not table.possible(mount):
                    pytest.skip("overlays cannot be mounted here")
                with table.lease(mount) as root:
                    assert set(os.listdir(root)) == expected
        table.close()


async def test_the_end_check_sees_a_removal(factory: Factory, tmp_path: Path) -> None:
    async with factory(tmp_path) as (store, remove):
        found = (await store.image(OTHER.id)).layers[-1]
        assert found.guard is not None
        found.guard()
        await remove(OTHER.id)
        with pytest.raises(SourceChanged):
            found.guard()
        with pytest.raises(NotFound):
            await store.image(OTHER.id)
        with pytest.raises(NotFound):
            await store.layer(found.chain_id)
        # The base is shared, and stays.
        kept = (await store.image(TOOL.id)).layers[0]
        assert kept.guard is not None
        kept.guard()
