"""Docker's store on data-roots made by hand: names, states, owners, and where the data-root is."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
from support import images
from support.docker_roots import DockerRoot
from support.images import directory, file, layer, symlink, whiteout

from streamer.errors import NotFound, SourceChanged, StoreDamaged, Unsupported
from streamer.mounts.mount import Ids
from streamer.stores import subids
from streamer.stores.docker.containers import status
from streamer.stores.docker.root import locate
from streamer.stores.docker.store import docker_store, uses_containerd

BASE = layer(directory("etc/"), file("etc/passwd", b"root"), file("gone", b"gone"), symlink("lib", "etc"))
TOOL = images.image(BASE, layer(file("tool", b"1"), whiteout("gone")), names=["shop/tool:1", "tool:latest"])
PLAIN = images.image(BASE)
EMPTY = images.image(names=["nothing:1"])


@pytest.fixture
def root(tmp_path: Path) -> DockerRoot:
    return DockerRoot(tmp_path / "docker").add(TOOL, PLAIN, EMPTY)


async def test_images_and_their_layers(root: DockerRoot) -> None:
    store = docker_store("d", root.path)
    assert {image.id for image in await store.images()} == {TOOL.id, PLAIN.id, EMPTY.id}
    image = await store.image("shop/tool:1")
    assert sorted(name.familiar for name in image.names) == ["shop/tool:1", "tool:latest"]
    for found, data in zip(image.layers, TOOL.layers, strict=True):
        assert found.assemble is not None
        assert found.size == len(data)
        assert b"".join(found.assemble()) == data
    assert (await store.image("nothing:1")).layers == ()
    assert store.location == f"docker:{root.path}"
    assert docker_store("d", root.path, ["/run/docker.sock"]).location == f"docker:{root.path}+/run/docker.sock"


async def test_names_with_digests(root: DockerRoot) -> None:
    digest = "sha256:" + "a" * 64
    text = json.loads(root.names.read_text())
    text["Repositories"]["other.org/x"] = {f"other.org/x@{digest}": TOOL.id}
    root.names.write_text(json.dumps(text))
    store = docker_store("d", root.path)
    for name in (f"other.org/x@{digest}", f"other.org/x:1@{digest}"):
        assert (await store.image(name)).id == TOOL.id
    assert await store.named("other.org/x") == []
    assert all(name.tag for image in await store.images() for name in image.names)


async def test_container(root: DockerRoot) -> None:
    identity = root.container("box", TOOL, "written")
    store = docker_store("d", root.path, ["/nowhere"])
    box = await store.container("box")
    assert (box.id, box.name, box.image, box.image_name) == (identity, "box", TOOL.id, "shop/tool:1")
    assert box.created == "2024-01-02T03:04:05.6Z"
    assert box.parent is not None
    # The init layer lies between: it is no part of what changed.
    init, *layers = box.parent.layers
    assert os.fsencode(root.overlay) in init
    assert b"-init/" in init
    assert tuple(layers) == (await store.image(TOOL.id)).layers[-1].snapshot.layers  # type: ignore[union-attr]
    assert box.snapshot.lowers == box.parent.layers
    assert box.snapshot.upper is not None
    assert os.listdir(box.snapshot.upper) == [b"written"]
    assert box.freezer is not None
    assert (await docker_store("d", root.path).container("box")).freezer is None


async def test_container_of_an_empty_image(root: DockerRoot) -> None:
    root.container("bare", EMPTY)
    bare = await docker_store("d", root.path).container("bare")
    assert bare.parent is not None
    assert len(bare.parent.layers) == 1


@pytest.mark.parametrize(
    ("state", "alive", "expected"),
    [
        ({"Running": True, "Pid": 7}, True, "running"),
        ({"Running": True, "Pid": 7}, False, "exited"),
        ({"Running": True, "Pid": 0}, True, "exited"),
        ({"Running": True, "Pid": "7"}, True, "exited"),
        ({"Running": True, "Paused": True, "Pid": 7}, True, "paused"),
        ({"Running": True, "Paused": True, "Pid": 7}, False, "exited"),
        ({"Running": True, "Restarting": True, "Pid": 0}, False, "restarting"),
        ({"StartedAt": "0001-01-01T00:00:00Z"}, True, "created"),
        ({"StartedAt": "2024-01-01T00:00:00Z"}, True, "exited"),
        ({}, True, "created"),
        (None, True, "created"),
        ([], True, "created"),
    ],
)
def test_status(state: object, alive: bool, expected: str) -> None:
    assert status({"State": state}, lambda _: alive) == expected


async def test_a_process_that_is_not_the_containers(root: DockerRoot) -> None:
    """The engine crashed, and its process's number is another's now."""
    root.container("crashed", TOOL, Running=True, Pid=os.getpid())
    # Where the engine is an ordinary user's, a process need not be in a control group of the container's.
    expected = "running" if os.geteuid() else "exited"
    assert (await docker_store("d", root.path).container("crashed")).status == expected


async def test_what_is_being_removed_is_not_there(root: DockerRoot) -> None:
    for name, state in (("dead", {"Dead": True}), ("going", {"RemovalInProgress": True})):
        root.container(name, TOOL, **state)
    (root.path / "containers" / ("1" * 64)).mkdir()
    (root.path / "containers/tmp").mkdir()
    top = images.chain_ids(TOOL.diff_ids)[-1]
    root.layer(top).rename(root.layer(top).with_name(f"{top[7:]}-123-removing"))
    store = docker_store("d", root.path)
    assert await store.containers() == type(await store.containers())(())
    assert [found.chain_id for found in await store.layers()] == PLAIN.diff_ids
    for name in ("dead", "going", "1" * 64):
        with pytest.raises(NotFound):
            await store.container(name)


async def test_end_check_of_a_layer(root: DockerRoot) -> None:
    image = await docker_store("d", root.path).image(TOOL.id)
    below, top = image.layers
    assert below.guard and top.guard
    below.guard()
    top.guard()
    (root.layer(top.chain_id) / "cache-id").write_text("b" * 64)  # removed, and pulled again
    with pytest.raises(SourceChanged):
        top.guard()
    below.guard()
    root.layer(below.chain_id).rename(root.layer(below.chain_id).with_name("x-removing"))
    with pytest.raises(SourceChanged):
        below.guard()


@pytest.mark.parametrize("how", ["dead", "removing", "config", "garbage", "mount", "mounts", "layer"])
async def test_end_check_of_a_container(root: DockerRoot, how: str) -> None:
    identity = root.container("box", TOOL)
    guard = (await docker_store("d", root.path).container("box")).guard
    assert guard is not None
    guard()
    mounts = root.layerdb / "mounts" / identity
    match how:
        case "dead":
            root.write_config(identity, State={"Dead": True})
        case "removing":
            root.write_config(identity, State={"RemovalInProgress": True})
        case "config":
            (root.path / "containers" / identity / "config.v2.json").unlink()
        case "garbage":
            (root.path / "containers" / identity / "config.v2.json").write_text("{")
        case "mount":
            (mounts / "mount-id").write_text("c" * 64)
        case "mounts":
            mounts.rename(mounts.with_name("gone"))
        case "layer":
            (root.layer(images.chain_ids(TOOL.diff_ids)[0]) / "cache-id").write_text("d" * 64)
    with pytest.raises(SourceChanged):
        guard()


async def test_a_changed_layer_is_noticed(root: DockerRoot) -> None:
    image = await docker_store("d", root.path).image(TOOL.id)
    base = image.layers[0]
    assert base.assemble is not None
    passwd = root.diff(base.chain_id) / "etc/passwd"
    for damage in (lambda: passwd.write_bytes(b"tor!"), passwd.unlink, passwd.parent.rmdir):
        damage()
        with pytest.raises(SourceChanged, match="etc/passwd"):
            list(base.assemble())


async def test_a_removed_layer_is_no_damage(root: DockerRoot) -> None:
    (top,) = [found for found in await docker_store("d", root.path).layers() if found.parent]
    root.layer(top.chain_id).rename(root.layer(top.chain_id).with_name("x-removing"))
    assert top.assemble is not None
    with pytest.raises(SourceChanged, match="tar-split"):
        list(top.assemble())


@pytest.mark.parametrize("name", ["../../../outside", "lib/../../outside", "link", "..", "etc"])
async def test_a_hostile_layer_reads_nothing_outside(tmp_path: Path, name: str) -> None:
    """Names in tar-split are the image's."""
    data = layer(file(name, b"secret"))
    root = DockerRoot(tmp_path / "docker").add(images.image(BASE))
    (tmp_path / "outside").write_bytes(b"secret")
    (root.overlay / "outside").write_bytes(b"secret")
    chain = images.sha256(BASE)
    (root.diff(chain) / "link").symlink_to(tmp_path / "outside")
    other = DockerRoot(tmp_path / "other")
    try:
        other.add(images.image(data))
    except OSError:
        pass  # only its tar-split is wanted, which is written first
    records = other.layer(images.sha256(data)) / "tar-split.json.gz"
    (root.layer(chain) / "tar-split.json.gz").write_bytes(records.read_bytes())
    (found,) = await docker_store("d", root.path).layers()
    assert found.assemble is not None
    with pytest.raises(SourceChanged):
        list(found.assemble())


# Where the data-root is, and whose its owners are


def test_owners_of_a_remapped_engine(tmp_path: Path) -> None:
    (tmp_path / "subuid").write_text(
        "# x\nme:100000:65536\ndockremap:300000:1000\ndockremap:200000:500\nbad:x:1\n:1:1\n"
    )
    (tmp_path / "subgid").write_text("dockremap:200000:65536\n")
    found = subids.remapped(200000, 200000, tmp_path)
    assert found == Ids(((0, 200000, 500), (500, 300000, 1000)), ((0, 200000, 65536),))
    assert found.inside(300001, 200005) == (501, 5)
    # Nobody's range begins there: one of the usual length.
    assert subids.remapped(7, 8, tmp_path) == Ids(((0, 7, 65536),), ((0, 8, 65536),))
    assert subids.remapped(7, 8, tmp_path / "none") == Ids(((0, 7, 65536),), ((0, 8, 65536),))


def test_owners_of_an_ordinary_user(tmp_path: Path) -> None:
    (tmp_path / "subuid").write_text("nobody:100000:65536\n65534:400000:10\nelse:1:1\n")
    found = subids.rootless(65534, 65533, tmp_path / "subuid", tmp_path / "subgid")
    assert found.users == ((0, 65534, 1), (1, 100000, 65536), (65537, 400000, 10))
    assert found.groups == ((0, 65533, 1),)


async def test_remapped_root_is_found(tmp_path: Path) -> None:
    root = DockerRoot(tmp_path / "docker/100000.100000").add(TOOL)
    root.container("box", TOOL)
    for path in (tmp_path / "docker", root.path):
        store = docker_store("d", path)
        box = await store.container("box")
        for snapshot in (box.snapshot, box.parent, (await store.image(TOOL.id)).layers[0].snapshot):
            assert snapshot is not None
            assert snapshot.ids is not None
            assert snapshot.ids.inside(100005, 100006) == (5, 6)
            assert not snapshot.userxattr


def test_root_beside_a_remapped_one(tmp_path: Path) -> None:
    DockerRoot(tmp_path / "100000.100000").add(TOOL)
    own = DockerRoot(tmp_path)
    assert locate("d", tmp_path).files.path == bytes(tmp_path / "100000.100000")
    own.add(PLAIN)
    assert locate("d", tmp_path).files.path == bytes(tmp_path)


def test_several_remapped_roots(tmp_path: Path) -> None:
    for name in ("200000.1", "100000.100000"):
        DockerRoot(tmp_path / name)
    with pytest.raises(Unsupported, match=r"100000\.100000, 200000\.1"):
        locate("d", tmp_path)


@pytest.mark.root
async def test_root_of_an_ordinary_user(tmp_path: Path) -> None:
    root = DockerRoot(tmp_path / "docker").add(TOOL)
    root.container("box", TOOL)
    os.chown(root.path, 4242, 4243)
    snapshot = (await docker_store("d", root.path).container("box")).snapshot
    assert snapshot.userxattr
    assert snapshot.ids is not None
    assert snapshot.ids.inside(4242, 4243) == (0, 0)


@pytest.mark.parametrize("sign", ["rootfs", "container", "metadata"])
async def test_images_in_containerd(tmp_path: Path, sign: str) -> None:
    folder = tmp_path / "containers" / ("1" * 64)
    folder.mkdir(parents=True)
    match sign:
        case "rootfs":
            (tmp_path / "rootfs").mkdir()
        case "container":
            (folder / "config.v2.json").write_text('{"Driver": "overlayfs"}')
        case "metadata":
            (tmp_path / "containerd/daemon/io.containerd.metadata.v1.bolt").mkdir(parents=True)
    assert uses_containerd(tmp_path)
    with pytest.raises(Unsupported, match="--store d=containerd:SOCKET#moby"):
        await docker_store("d", tmp_path).images()


def test_images_not_in_containerd(root: DockerRoot, tmp_path: Path) -> None:
    (root.path / "containerd/daemon/io.containerd.metadata.v1.bolt").mkdir(parents=True)
    assert not uses_containerd(root.path)
    assert not uses_containerd(tmp_path / "missing")
    (tmp_path / "zfs/image/zfs/imagedb").mkdir(parents=True)
    assert not uses_containerd(tmp_path / "zfs")


async def test_another_graph_driver(tmp_path: Path) -> None:
    (tmp_path / "image/btrfs/imagedb").mkdir(parents=True)
    with pytest.raises(Unsupported, match="btrfs"):
        await docker_store("d", tmp_path).images()


@pytest.mark.parametrize("name", ["missing", "empty", "file"])
async def test_no_data_root(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(StoreDamaged) as raised:
        await docker_store("d", tmp_path / name).images()
    assert str(tmp_path) not in str(raised.value)


async def test_container_of_another_driver(root: DockerRoot) -> None:
    identity = root.container("new", TOOL)
    root.container("old", TOOL)
    root.write_config(identity, Driver="overlayfs")
    listing = await docker_store("d", root.path).containers()
    assert [found.name for found in listing] == ["old"]
    (other,) = listing.damaged
    assert isinstance(other.error, Unsupported)
    assert other.names == ("new",)


async def test_whole_trees(tmp_path: Path) -> None:
    """The graph driver vfs has them in place of overlays."""
    root = DockerRoot(tmp_path).add(TOOL)
    identity = root.container("box", TOOL)
    root.write_config(identity, Driver="vfs")
    (tmp_path / "vfs/dir").mkdir(parents=True)
    for tree in root.overlay.iterdir():
        if (tree / "diff").is_dir():
            (tree / "diff").rename(tmp_path / "vfs/dir" / tree.name)
    root.image.rename(tmp_path / "image/vfs")
    store = docker_store("d", tmp_path)
    box = await store.container("box")
    assert (box.snapshot.driver, len(box.snapshot.layers)) == ("directory", 1)
    assert box.snapshot.upper is not None
    assert box.parent is not None
    assert len(box.parent.layers) == 1
    for found in await store.layers():
        assert found.assemble is not None
        assert "sha256:" + hashlib.sha256(b"".join(found.assemble())).hexdigest() == found.diff_id
        assert found.snapshot is not None
        assert len(found.snapshot.layers) == 1
