"""A container's diff, put on its image by an engine, gives the tree that was seen in the container."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from support import exports, images, trees
from support.archives import entries, same_tree, unpacked
from support.engines import Command
from support.everything import CAPABILITY_2
from support.samples import ONE
from support.samples import images as samples
from support.trees import Append, Device, Dir, Fifo, File, Link, Remove, Rename, Set, Socket, Symlink
from support.views import INIT, INIT_PARENTS, Viewer

from streamer.export.commit import commit
from streamer.export.container import plan_container
from streamer.export.diff import plan_diff
from streamer.export.exporter import exporter
from streamer.export.image import Format, plan_images
from streamer.export.plan import Options
from streamer.mounts.mount import Snapshot
from streamer.stores.catalog import Catalog
from streamer.stores.local.store import LocalStore

pytestmark = [pytest.mark.engine, pytest.mark.root]

CHANGED = "docker.io/library/changed:1"
CHANGES: Sequence[object] = (
    File("new/deep/down/file", b"new"),
    Dir("new/empty", mode=0o2775, owner=(7, 8)),
    Append("etc/passwd", b"more\n"),
    File("bin/su", b"another", mode=0o4711),
    Set("bin/ping", mode=0o700),
    Set("home", owner=(1001, 1001)),
    Set("dev/null", owner=(5, 5)),
    Set("etc/alternatives", owner=(9, 9)),
    Set("opt/which", xattrs={"security.capability": CAPABILITY_2}),
    Remove("etc/shadow"),
    Remove("long"),
    Remove("opt/becomes-a-directory"),
    File("opt/becomes-a-directory", b"a file again"),
    Remove("opt/gone"),
    Dir("opt/gone", File("inside", b"x")),
    Remove("opt/emptied"),
    Dir("opt/emptied", File("other", b"in a new directory of the same name")),
    Rename("opt/linked-2", "opt/renamed"),
    Rename("z" * 120, "renamed-directory"),
    Link("opt/linked-3", "opt/linked-1"),
    Symlink("opt/empty", "now-a-link"),
    Device("dev/zero", 1, 5),
    Fifo("run/another-fifo"),
    File("Übermut/日本語 ファイル", "geändert"),
    File(b"\xfe\xff", b"no UTF-8"),
    Dir("tmp", mode=0o777),
)


@dataclass
class Changed:
    """A changed container: the tree as it was seen while mounted, its diff, and images made of it by streamer."""

    tree: Path
    before: Path
    diff: bytes
    whole: bytes
    committed: Path
    committed_id: str


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> Changed:
    return asyncio.run(_changed(tmp_path_factory.mktemp("changed")))


async def _changed(place: Path) -> Changed:
    async with LocalStore.open(place / "state") as store, exporter() as opened:
        await store.import_archive(images.Bytes(images.pack(images.docker(*samples()))))
        container = await store.create(ONE, "c")
        before = unpacked(await exports.body(plan_container(container, Options())), place / "before")
        merged = await store.mount("c")
        try:
            trees.make(merged, *CHANGES)
            root = os.open(merged, os.O_RDONLY | os.O_DIRECTORY)
            try:
                trees.make(root, Socket("run/socket"))  # by descriptor: its path must be short
            finally:
                os.close(root)
            tree = Path(trees.copy(merged, trees.make(place / "tree")).decode())
            live = await exports.body(plan_diff(container, Options()))
        finally:
            await store.unmount("c")
        diff = await exports.body(plan_diff(container, Options()))
        assert diff == live, "the diff of a mounted container is not that of the same container unmounted"
        image = await commit(store, opened, "c", CHANGED)
        saved = place / "committed.tar"
        saved.write_bytes(
            await exports.body(await plan_images(Catalog({"local": store}), [CHANGED], Options(), Format.OCI))
        )
        whole = await exports.body(plan_container(container, Options()))
        return Changed(tree, before, diff, whole, saved, image.id)


NOT_IN_TAR = (b"run/socket",)
ENGINES = ("docker", "podman", "ctr", "umoci")


@pytest.mark.parametrize("engine", ENGINES)
def test_diff_on_its_image(engine: str, changed: Changed, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    _seen_by(engine, changed.diff, changed, request, tmp_path)


@pytest.mark.parametrize("engine", ["docker", "umoci"])
async def test_diff_by_comparing_two_trees(
    engine: str, changed: Changed, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """The naive diff, of directories no overlay ever saw. As Docker's it sees a new name of an unchanged file as a file
    of its own: nothing but the number of names tells that the old one is touched.
    """
    container = exports.container(changed.tree)
    container = replace(container, parent=Snapshot("directory", (bytes(changed.before),)))
    diff = await exports.body(plan_diff(container, Options()))
    _seen_by(engine, diff, changed, request, tmp_path, unlinked=(b"opt/linked-1", b"opt/linked-3"))


def _seen_by(
    engine: str,
    diff: bytes,
    changed: Changed,
    request: pytest.FixtureRequest,
    scratch: Path,
    unlinked: tuple[bytes, ...] = (),
) -> None:
    one, _ = samples()
    made = images.image(*one.layers, diff, names=[CHANGED])
    archive = scratch / "image.tar"
    archive.write_bytes(images.pack(_with_tags(images.both(made))))
    with Viewer(engine, request, scratch).of(archive, CHANGED) as view:
        assert view.id == made.id
        without = (*view.without, *NOT_IN_TAR, *unlinked)
        same_tree(view.tree, changed.tree, seconds=True, without=without, untimed=view.untimed)
        for name in unlinked:
            assert (view.tree / name.decode()).read_bytes() == (changed.tree / name.decode()).read_bytes()


def _with_tags(files: images.Files) -> images.Files:
    """With the annotation that umoci finds an image by."""
    index = files["index.json"]
    assert isinstance(index, bytes)
    annotation = b'"io.containerd.image.name"'
    return {
        **files,
        "index.json": index.replace(annotation, b'"org.opencontainers.image.ref.name": "1", ' + annotation),
    }


@pytest.mark.parametrize("engine", ENGINES)
def test_committed_image(engine: str, changed: Changed, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    with Viewer(engine, request, tmp_path).of(changed.committed, CHANGED) as view:
        assert view.id == changed.committed_id
        without = (*view.without, *NOT_IN_TAR)
        same_tree(view.tree, changed.tree, seconds=True, without=without, untimed=view.untimed)


def test_umoci_adds_the_diff_to_a_layout(changed: Changed, umoci: Command, tmp_path: Path) -> None:
    one, _ = samples()
    one.names = ["docker.io/library/one:1"]
    layout = images.unpack_to(_with_tags(images.oci(one)), tmp_path / "layout")
    (tmp_path / "diff.tar").write_bytes(changed.diff)
    umoci("raw", "add-layer", "--image", f"{layout}:1", tmp_path / "diff.tar")
    umoci("unpack", "--image", f"{layout}:1", tmp_path / "bundle")
    same_tree(tmp_path / "bundle/rootfs", changed.tree, seconds=True, without=NOT_IN_TAR)


def test_whole_container_as_an_image(changed: Changed, docker: Command, tmp_path: Path) -> None:
    """`docker import` keeps the archive as it is: the layer's digest is the archive's, and its tree what was seen."""
    (tmp_path / "whole.tar").write_bytes(changed.whole)
    identity = docker.text("import", tmp_path / "whole.tar")
    found = docker.json("image", "inspect", identity)[0]
    container = docker.text("create", identity, "/none")
    try:
        assert found["RootFS"]["Layers"] == ["sha256:" + hashlib.sha256(changed.whole).hexdigest()]
        exported = unpacked(docker("export", container), tmp_path / "exported")
        same_tree(exported, changed.tree, seconds=True, without=(*INIT, *NOT_IN_TAR), untimed=INIT_PARENTS)
    finally:
        docker("rm", container)
        docker("rmi", identity)


def test_diff_holds_changes_only(changed: Changed) -> None:
    names = {record.name for record in entries(changed.diff)}
    assert b"bin/busybox" not in names
    assert {b"etc/.wh.shadow", b".wh.long", b"opt/emptied/.wh..wh..opq", b"new/deep/down/file"} <= names
    assert b"run/socket" not in names
