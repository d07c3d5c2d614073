"""What stores look like beside the plain case: several roots, lists that do not outlive a boot, odd layers."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from support import images
from support.handmade import Handmade
from support.images import directory, file, layer

from streamer.errors import StoreDamaged, Unsupported
from streamer.oci import reference as references
from streamer.stores.containers_storage.options import StorageOptions
from streamer.stores.containers_storage.places import big_data
from streamer.stores.containers_storage.store import containers_storage

BASE = layer(directory("etc/"), file("etc/passwd", b"root"))
IMAGE = images.image(BASE, layer(file("tool", b"tool")))
OTHER = images.image(BASE, layer(file("other", b"other")))
TOP = images.encoded(f"{images.encoded(BASE)}+{images.encoded(IMAGE.layers[1])}".encode())


@pytest.fixture(params=["overlay", "vfs"])
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Handmade:
    return Handmade(tmp_path / "root", request.param)


async def test_names(made: Handmade) -> None:
    identity = made.image(IMAGE, "localhost/mine:1", "docker.io/library/x:2", "quay.io/a/b@sha256:" + "1" * 64, "Wrong")
    made.image(OTHER)
    store = containers_storage("s", made.save())
    manifest = made.images[0]["digest"]
    texts = ["mine:1", "localhost/mine:1", "x:2", "docker.io/library/x:2", "quay.io/a/b@sha256:" + "1" * 64]
    texts += [identity, identity[:12], IMAGE.id, f"mine@{manifest}", f"x@{manifest}", f"x:2@{manifest}", manifest]
    for text in texts:
        image = await store.image(text)
        assert image.id == IMAGE.id, text
        assert {name.familiar for name in image.names} == {"localhost/mine:1", "x:2"}
    assert [name.familiar for name, _ in await store.named("mine")] == ["localhost/mine:1"]
    assert (await store.image(OTHER.id)).names == ()
    assert store.location == f"containers-storage:{made.root}"
    assert containers_storage("s", made.root, made.root).location == f"containers-storage:{made.root}+{made.root}"


async def test_a_container_knows_its_image_without_metadata(made: Handmade) -> None:
    identity = made.image(IMAGE, "localhost/mine:1")
    made.container("working", identity)
    del made.containers[0]["metadata"]
    container = await containers_storage("s", made.save()).container("working")
    assert (container.image, container.image_name) == (IMAGE.id, "localhost/mine:1")
    assert container.status == ""
    assert container.freezer is None
    made.images.clear()
    made.save()
    assert (await containers_storage("s", made.root).container("working")).image == IMAGE.id


async def test_additional_stores(made: Handmade, tmp_path: Path) -> None:
    """The engine's container lies on an image of another root; the same image in both is one."""
    shared = Handmade(tmp_path / "shared", made.driver)
    image = shared.image(IMAGE, "localhost/shared:1", "localhost/both:1")
    shared.save()
    made.image(OTHER, "localhost/both:1")
    made.images.append({**shared.images[0]})
    made.container("box", image)
    made.images.pop()
    options = StorageOptions(additional=(shared.root, tmp_path / "missing"))
    store = containers_storage("s", made.save(), options=options)
    assert {each.id for each in await store.images()} == {IMAGE.id, OTHER.id}
    assert (await store.image("both:1")).id == OTHER.id
    found = (await store.image("shared:1")).layers[-1]
    assert found.snapshot is not None
    assert found.snapshot.layers[0] == bytes(shared.tree(TOP))
    assert found.assemble is not None
    assert images.sha256(b"".join(found.assemble())) == found.diff_id
    container = await store.container("box")
    assert container.snapshot.upper == bytes(made.tree(made.containers[0]["layer"]))
    assert container.parent == found.snapshot
    assert container.guard is not None
    container.guard()
    (shared.root / f"{made.driver}-images/images.json").write_text("[")
    listing = await store.images()
    assert [each.id for each in listing] == [OTHER.id]
    (damaged,) = listing.damaged
    assert f"{made.driver}-images/images.json of additional image store 1" in str(damaged.error)


async def test_image_store(made: Handmade, tmp_path: Path) -> None:
    apart = Handmade(tmp_path / "apart", made.driver)
    image = apart.image(IMAGE, "localhost/apart:1")
    apart.save()
    made.images.append(apart.images[0])
    made.container("box", image)
    made.images.clear()
    store = containers_storage("s", made.save(), options=StorageOptions(imagestore=apart.root))
    assert [each.id for each in await store.images()] == [IMAGE.id]
    assert (await store.container("box")).image == IMAGE.id
    assert len((await store.image("apart:1")).layers) == 2


@pytest.mark.parametrize("where", ["root", "run"])
async def test_volatile_containers(made: Handmade, tmp_path: Path, where: str) -> None:
    """Lists beside the lists, or with `transient_store` in the run root."""
    image = made.image(IMAGE, "localhost/x:1")
    made.container("stays", image)
    made.container("goes", image)
    containers, layers = [made.containers.pop()], [made.layers.pop()]
    root = made.save()
    for kind, content in (("containers", containers), ("layers", layers)):
        folder = tmp_path / where / f"{made.driver}-{kind}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"volatile-{kind}.json").write_text(json.dumps(content))
    store = containers_storage("s", root, tmp_path / "run")
    assert {each.name for each in await store.containers()} == {"stays", "goes"}
    goes = await store.container("goes")
    assert goes.guard is not None
    goes.guard()
    (tmp_path / where / f"{made.driver}-containers/volatile-containers.json").write_text("{")
    listing = await store.containers()
    assert [each.name for each in listing] == ["stays"]
    assert "volatile-containers.json" in str(listing.damaged[0].error)
    assert len(await store.images()) == 1


@pytest.mark.parametrize("flags", [{}, {"expected-layer-diffid": IMAGE.diff_ids[1]}])
async def test_a_layer_pulled_in_parts(made: Handmade, flags: dict[str, str]) -> None:
    """It has the digest of a table of contents instead of a diff ID, and its image an ID that is no digest of it."""
    identity = made.image(IMAGE, "localhost/parts:1")
    top = next(each for each in made.layers if each["id"] == TOP)
    del top["diff-digest"]
    top.update({"toc-digest": "sha256:" + "1" * 64, "diff-size": -1, "flags": flags})
    (made.root / f"{made.driver}-images" / identity).rename(made.root / f"{made.driver}-images" / ("2" * 64))
    made.images[0]["id"] = "2" * 64
    store = containers_storage("s", made.save())
    for text in ("parts:1", IMAGE.id, "2" * 64, "2" * 12):
        assert (await store.image(text)).id == IMAGE.id
    found = await store.layer(IMAGE.diff_ids[1])
    assert found == (await store.image("parts:1")).layers[-1]
    assert found.assemble is not None
    data = b"".join(found.assemble())
    assert (images.sha256(data), len(data)) == (found.diff_id, found.size)


async def test_container_layers_are_no_layers(made: Handmade) -> None:
    made.container("box", made.image(IMAGE, "localhost/x:1"))
    store = containers_storage("s", made.save())
    assert {each.diff_id for each in await store.layers()} == set(IMAGE.diff_ids)


async def test_incomplete_layers_are_invisible(made: Handmade) -> None:
    made.image(IMAGE, "localhost/x:1")
    made.layers.append({"id": "f" * 64, "diff-digest": "sha256:" + "e" * 64, "flags": {"incomplete": True}})
    listing = await containers_storage("s", made.save()).layers()
    assert {each.diff_id for each in listing} == set(IMAGE.diff_ids)
    assert not listing.damaged


async def test_a_layer_on_nothing_is_told(made: Handmade) -> None:
    made.image(IMAGE, "localhost/x:1")
    orphan = {"id": "f" * 64, "diff-digest": "sha256:" + "e" * 64, "parent": "d" * 64}
    made.layers += [orphan, {**orphan, "id": "c" * 64, "diff-digest": "sha256:" + "b" * 64, "parent": "f" * 64}]
    listing = await containers_storage("s", made.save()).layers()
    assert {each.diff_id for each in listing} == set(IMAGE.diff_ids)
    assert all("d" * 12 in str(damaged.error) for damaged in listing.damaged)
    assert len(listing.damaged) == 2


async def test_an_image_without_layers(made: Handmade) -> None:
    empty = images.image(names=[])
    made.image(empty, "localhost/empty:1")
    image = await containers_storage("s", made.save()).image("empty:1")
    assert (image.id, image.layers) == (empty.id, ())


@pytest.mark.parametrize("number", ["diff1", "diff2"])
async def test_further_directories_of_a_layer(tmp_path: Path, number: str) -> None:
    made = Handmade(tmp_path / "root")
    made.image(IMAGE, "localhost/x:1")
    root = made.save()
    for each in ("diff1", "diff2"):
        (root / "overlay" / TOP / each).mkdir()
        if each == number:
            break
    snapshot = (await containers_storage("s", root).image("x:1")).layers[-1].snapshot
    assert snapshot is not None
    names = [os.path.basename(path) for path in snapshot.layers]
    assert names == [b"diff", b"diff1", b"diff"] if number == "diff1" else [b"diff", b"diff1", b"diff2", b"diff"]


async def test_links_of_layers_are_not_needed(tmp_path: Path) -> None:
    """`l/` and `lower` tell nothing that the list does not; after a crash they may be wrong."""
    made = Handmade(tmp_path / "root")
    made.image(IMAGE, "localhost/x:1")
    root = made.save()
    (root / "overlay/l").mkdir()
    (root / "overlay/l/ABCDEFGHIJKLMNOPQRSTUVWXYZ").symlink_to("../nowhere/diff")
    (root / "overlay" / TOP / "lower").write_text("l/ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    assert len((await containers_storage("s", root).image("x:1")).layers) == 2


async def test_a_layer_elsewhere(tmp_path: Path) -> None:
    """`additionallayerstores`: root's link is followed, once."""
    made = Handmade(tmp_path / "root")
    made.image(IMAGE, "localhost/x:1")
    root = made.save()
    made.tree(TOP).rename(tmp_path / "elsewhere")
    made.tree(TOP).symlink_to(tmp_path / "elsewhere")
    store = containers_storage("s", root)
    top = (await store.image("x:1")).layers[-1]
    assert top.snapshot is not None
    assert top.snapshot.layers[0] == bytes(tmp_path / "elsewhere")
    assert top.assemble is not None
    assert images.sha256(b"".join(top.assemble())) == top.diff_id
    if os.geteuid() == 0:
        os.lchown(made.tree(TOP), 1234, 1234)
        with pytest.raises(StoreDamaged, match="symbolic link"):
            await store.image("x:1")
    made.tree(TOP).unlink()
    made.tree(TOP).symlink_to("../../../elsewhere")
    with pytest.raises(StoreDamaged, match="symbolic link"):
        await store.image("x:1")


async def test_composefs_is_refused(tmp_path: Path) -> None:
    made = Handmade(tmp_path / "root")
    made.container("box", made.image(IMAGE, "localhost/x:1"))
    root = made.save()
    (root / "overlay" / TOP / "composefs-data").mkdir()
    store = containers_storage("s", root)
    base, top = (await store.image("x:1")).layers
    assert base.assemble is not None
    assert base.snapshot is not None
    assert top.assemble is None
    for held in (top.held, (await store.container("box")).held):
        with pytest.raises(Unsupported, match="composefs"):
            held()


async def test_force_mask_is_refused_for_file_systems(tmp_path: Path) -> None:
    made = Handmade(tmp_path / "root")
    made.container("box", made.image(IMAGE, "localhost/x:1"))
    root = made.save()
    os.setxattr(made.tree(TOP), "user.containers.override_stat", b"0:0:0555")
    store = containers_storage("s", root)
    base, top = (await store.image("x:1")).layers
    assert base.snapshot is not None
    assert top.assemble is not None
    assert images.sha256(b"".join(top.assemble())) == top.diff_id
    for held in (top.held, (await store.container("box")).held):
        with pytest.raises(Unsupported, match="force_mask"):
            held()


@pytest.mark.parametrize(("content", "driver"), [("true", "fuse-overlay"), ("false", "overlay"), ("", "overlay")])
async def test_mount_program(tmp_path: Path, content: str, driver: str) -> None:
    made = Handmade(tmp_path / "root")
    made.image(IMAGE, "localhost/x:1")
    root = made.save()
    (root / "overlay/.has-mount-program").write_text(content)
    snapshot = (await containers_storage("s", root).image("x:1")).layers[-1].snapshot
    assert snapshot is not None
    assert snapshot.driver == driver


async def test_the_driver_is_found(tmp_path: Path) -> None:
    """A store that was tried with another driver: the one with images, unless the other is asked for."""
    root = tmp_path / "root"
    vfs, overlay = Handmade(root, "vfs"), Handmade(root, "overlay")
    vfs.image(IMAGE, "localhost/x:1")
    vfs.save()
    (root / "overlay-images").mkdir()
    (root / "overlay-layers").mkdir()
    for driver, expected in ((None, IMAGE), ("vfs", IMAGE), ("overlay2", None), ("overlay", None)):
        store = containers_storage("s", root, options=StorageOptions(driver=driver))
        assert [each.id for each in await store.images()] == ([expected.id] if expected else [])
    overlay.image(OTHER, "localhost/x:1")
    overlay.save()
    for driver, image in ((None, OTHER), ("overlay", OTHER), ("vfs", IMAGE), ("btrfs", OTHER)):
        store = containers_storage("s", root, options=StorageOptions(driver=driver))
        assert [each.id for each in await store.images()] == [image.id]


async def test_vfs_layers_are_whole_trees(tmp_path: Path) -> None:
    made = Handmade(tmp_path / "root", "vfs")
    made.container("box", made.image(IMAGE, "localhost/x:1"))
    store = containers_storage("s", made.save())
    top = (await store.image("x:1")).layers[-1]
    assert top.snapshot is not None
    assert (top.snapshot.driver, top.snapshot.layers) == ("directory", (bytes(made.tree(TOP)),))
    box = await store.container("box")
    assert box.snapshot.layers == (bytes(made.tree(made.containers[0]["layer"])),)
    assert box.parent == top.snapshot


def test_names_of_documents() -> None:
    assert big_data("manifest") == "manifest"
    assert big_data("sha256:ab") == "=c2hhMjU2OmFi"
    assert big_data("..") != ".."
    assert references.parse("localhost/x").tagged().familiar == "localhost/x:latest"
