"""A real containerd as a store: what is read is what was pulled and what containers see, and nothing stays leased."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from support import exports, images
from support.archives import same_tree, unpacked
from support.engines import Command, Engines
from support.factories import containerd as containerds
from support.images import MadeImage, encoded, file, layer
from support.samples import ONE, TWO
from support.samples import images as samples

from streamer.errors import Draining, NotFound, SourceChanged, StoreDamaged
from streamer.export.container import plan_container, plan_rootfs
from streamer.export.diff import plan_changes, plan_diff
from streamer.export.exporter import exporter
from streamer.export.image import plan_images
from streamer.export.layer import plan_layer
from streamer.export.plan import ExportPlan, Options
from streamer.stores.base import Image, Store
from streamer.stores.catalog import Catalog
from streamer.stores.containerd import reading
from streamer.stores.containerd.listing import Plugins
from streamer.stores.containerd.store import ContainerdStore, namespaces

pytestmark = [pytest.mark.engine, pytest.mark.root]

LARGE = "docker.io/library/large:1"
REMADE = "docker.io/library/remade:1"


@dataclass
class Place:
    """A namespace of a real containerd, with what a test loads into it."""

    ctr: Command
    address: Path
    name: str
    engines: Engines
    scratch: Path

    @property
    def root(self) -> Path:
        return self.address.parent / "root"

    def load(self, *made: MadeImage, snapshotter: str = "overlayfs") -> None:
        containerds.load(self.ctr, self.scratch, *made, snapshotter=snapshotter)

    def store(self) -> AbstractAsyncContextManager[Store]:
        return ContainerdStore.open("engine", str(self.address), self.name)

    @contextlib.contextmanager
    def mounted(self, made: MadeImage, snapshotter: str) -> Iterator[Path]:
        """The tree of an image as a container of it would see it, while the block is open."""
        key = f"of-{secrets.token_hex(4)}"
        self.ctr("containers", "create", "--snapshotter", snapshotter, made.names[0], key, "/none")
        with self.shown(key, snapshotter) as tree:
            yield tree
        self.ctr("containers", "delete", key)

    @contextlib.contextmanager
    def shown(self, key: str, snapshotter: str) -> Iterator[Path]:
        """What a snapshot shows, mounted as containerd says."""
        target = self.scratch / f"mounted-{secrets.token_hex(4)}"
        target.mkdir()
        command = self.ctr("snapshots", "--snapshotter", snapshotter, "mounts", target, key)
        self.engines.command("sh")("-c", command)
        try:
            yield self.engines.inside(target)
        finally:
            self.engines.command("umount")(target)

    def blob(self, digest: str) -> Path:
        return self.root / "io.containerd.content.v1.content/blobs/sha256" / digest.removeprefix("sha256:")

    def leases(self) -> list[str]:
        return self.ctr.text("leases", "list").splitlines()[1:]

    def released(self) -> bool:
        """Soon, long before it would expire."""
        deadline = time.monotonic() + 60
        while self.leases():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    ctr, address, name = containerds.namespace(request)
    return Place(ctr, address, name, request.getfixturevalue("engines"), tmp_path)


@pytest.fixture(params=["files", "socket"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How blobs are read: a containerd in another file system tells a directory that is not there for us."""
    if request.param == "socket":
        asked = reading.listing.plugins
        monkeypatch.setattr(reading.listing, "plugins", lambda client: Plugins("/nowhere", asked(client).snapshotters))
    way: str = request.param
    return way


def large() -> MadeImage:
    return images.image(layer(file("below")), layer(file("large", os.urandom(1 << 20) * 12)), names=[LARGE])


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


async def bodies(image: Image) -> list[bytes]:
    return [await exports.body(plan_layer(each, Options())) for each in image.layers]


# What is read


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
async def test_layers_are_what_was_pulled(place: Place, compression: str) -> None:
    made = [replace(each, compression=compression) for each in samples()]
    place.load(*made)
    async with place.store() as store:
        for each in made:
            image = await store.image(each.names[0])
            assert [digest(data) for data in await bodies(image)] == each.diff_ids
            for found, data, blob in zip(image.layers, each.layers, each.blobs(), strict=True):
                assert found.size == (len(data) if compression == "none" else None)
                assert found.blob is not None
                assert b"".join(found.blob.read()) == blob
                assert found.guard is not None
                found.guard()
    assert place.leases() == []


@pytest.mark.parametrize("snapshotter", ["overlayfs", "native"])
async def test_root_file_systems(place: Place, snapshotter: str) -> None:
    one, two = samples()
    place.load(one, two, snapshotter=snapshotter)
    async with place.store() as store:
        for made in (one, two):
            body = await exports.body(plan_rootfs(await store.image(made.id), made.names[0], Options()))
            with place.mounted(made, snapshotter) as tree:
                given = unpacked(body, place.scratch / encoded(made.data))
                # The native snapshotter copies directories without their times.
                same_tree(given, tree, seconds=True, mtimes=snapshotter != "native")
    assert place.leases() == []


@pytest.mark.parametrize("snapshotter", ["overlayfs", "native"])
async def test_layers_whose_blobs_were_discarded(place: Place, snapshotter: str) -> None:
    """Made from what was unpacked: other bytes, which unpack to the same tree."""
    one, _ = samples()
    place.load(one, snapshotter=snapshotter)
    place.ctr("content", "delete", *one.diff_ids)
    async with place.store() as store:
        image = await store.image(ONE)
        assert [(each.assemble, each.blob, each.size) for each in image.layers] == [(None, None, None)] * 3
        assert image.manifest is None
        remade = images.image(*await bodies(image), names=[REMADE])
    place.load(remade)
    with place.mounted(one, snapshotter) as tree, place.mounted(remade, "overlayfs") as again:
        # The native snapshotter copies directories without their times.
        same_tree(again, tree, seconds=True, mtimes=snapshotter != "native")
    assert place.leases() == []


async def test_nothing_was_unpacked(place: Place) -> None:
    one, _ = samples()
    archive = place.scratch / "a.tar"
    archive.write_bytes(images.pack(images.docker(one)))
    place.ctr("images", "import", "--no-unpack", archive)
    async with place.store() as store:
        image = await store.image(one.id)
        assert [each.hold for each in image.layers] == [None] * 3
        assert [digest(data) for data in await bodies(image)] == one.diff_ids


async def test_saved_images_keep_their_blobs(place: Place) -> None:
    one = replace(samples()[0], compression="gzip", names=[ONE])
    place.load(one)
    target = next(line.split()[2] for line in place.ctr.text("images", "list").splitlines() if line.startswith(ONE))
    async with place.store() as store:
        body = await exports.body(await plan_images(Catalog({"engine": store}), [ONE], Options()))
    saved = unpacked(body, place.scratch / "saved")
    (entry,) = json.loads((saved / "index.json").read_bytes())["manifests"]
    assert entry["digest"] == target
    for blob in one.blobs():
        assert (saved / "blobs/sha256" / encoded(blob)).read_bytes() == blob


@pytest.mark.parametrize("snapshotter", ["overlayfs", "native"])
async def test_a_running_container(place: Place, snapshotter: str) -> None:
    one, _ = samples()
    place.load(one, snapshotter=snapshotter)
    script = """
        PATH=/bin; busybox rm /opt/gone; busybox rm -r /opt/emptied; busybox mkdir /opt/emptied /made
        echo text > /made/file; busybox ln /made/file /made/linked; busybox ln -s file /made/link
        echo more >> /etc/passwd; busybox chown 7:8 /home; busybox mknod /made/node c 1 3; busybox mkfifo /made/fifo
        busybox rm -r /long; echo x > /long; echo done > /done; while :; do busybox sleep 1; done
    """
    place.ctr("run", "-d", "--snapshotter", snapshotter, ONE, "c1", "/bin/busybox", "sh", "-c", script)
    try:
        async with place.store() as store:
            container = await store.container("c1")
            assert (container.image, container.status, container.name) == (one.id, "running", "c1")
            with container.held() as (snapshot, _):
                done = Path(os.fsdecode(snapshot.layers[0])) / "done"
                wait(lambda: done.exists() and done.stat().st_size > 0)
            whole = await exports.body(plan_container(container, Options()))
            diff = await exports.body(plan_diff(container, Options()))
            listed = json.loads(await exports.body(plan_changes(container)))
            assert {"path": "/opt/gone", "kind": "D"} in listed
            assert {"path": "/etc/passwd", "kind": "C"} in listed
            assert {"path": "/made/file", "kind": "A"} in listed
            assert container.guard is not None
            container.guard()
    finally:
        place.ctr("tasks", "kill", "-s", "KILL", "c1")
        wait(lambda: "STOPPED" in place.ctr.text("tasks", "list"))
        place.ctr("tasks", "delete", "c1")
    remade = images.image(*one.layers, diff, names=[REMADE])
    place.load(remade)
    with place.shown("c1", snapshotter) as tree, place.mounted(remade, "overlayfs") as again:
        same_tree(unpacked(whole, place.scratch / "whole"), tree, seconds=True)
        # The native snapshotter copies directories without their times.
        same_tree(again, tree, seconds=True, mtimes=snapshotter != "native")
    assert place.leases() == []


async def test_pausing(place: Place) -> None:
    place.load(samples()[0])
    place.ctr("run", "-d", ONE, "c1", "/bin/busybox", "sleep", "1000")
    try:
        async with place.store() as store:
            freezer = (await store.container("c1")).freezer
            assert freezer is not None
            assert not freezer.still()
            assert freezer.pause()
            assert freezer.still()
            assert (await store.container("c1")).status == "paused"
            assert not freezer.pause()
            subprocess.run(freezer.resume_command, check=True)
            assert not freezer.still()
            freezer.resume()
    finally:
        place.ctr("tasks", "delete", "--force", "c1")
    async with place.store() as store:
        freezer = (await store.container("c1")).freezer
        assert freezer is not None
        assert (freezer.pause(), freezer.still()) == (False, True)
        freezer.resume()


async def test_namespaces_are_apart(place: Place, request: pytest.FixtureRequest) -> None:
    place.load(samples()[0])
    _, address, other = containerds.namespace(request)
    assert place.name in await namespaces(str(address))
    async with ContainerdStore.open("other", str(address), other) as store:
        assert [len(await store.images()), len(await store.layers()), len(await store.containers())] == [0, 0, 0]
        with pytest.raises(NotFound):
            await store.image(ONE)


# What happens meanwhile


def of_layer(image: Image) -> ExportPlan:
    return plan_layer(image.layers[-1], Options())


def of_rootfs(image: Image) -> ExportPlan:
    return plan_rootfs(image, LARGE, Options())


@pytest.mark.usefixtures("way")
async def test_an_image_is_removed_while_a_layer_is_read(place: Place) -> None:
    await removed_meanwhile(place, of_layer, "overlayfs")


@pytest.mark.parametrize("snapshotter", ["overlayfs", "native"])
async def test_an_image_is_removed_while_its_files_are_read(place: Place, snapshotter: str) -> None:
    await removed_meanwhile(place, of_rootfs, snapshotter)


async def removed_meanwhile(place: Place, plan: Callable[[Image], ExportPlan], snapshotter: str) -> None:
    made = large()
    place.load(made, snapshotter=snapshotter)
    async with place.store() as store, exporter() as opened:
        planned = plan(await store.image(LARGE))
        undisturbed = digest(await exports.body(planned))
        async with opened.open(planned) as stream:
            chunks = [await anext(stream)]
            assert len(place.leases()) == 1
            place.ctr("images", "delete", "--sync", LARGE)
            with pytest.raises(NotFound):
                await store.image(LARGE)
            chunks += [chunk async for chunk in stream]
        assert digest(b"".join(chunks)) == undisturbed
        # Now that nobody needs it any more, everything goes.
        assert place.leases() == []
        assert place.ctr.text("content", "list", "-q") == ""
        assert len(place.ctr.text("snapshots", "list").splitlines()) == 1
        with pytest.raises(SourceChanged):
            await exports.body(planned)
        assert place.leases() == []


async def test_a_lease_is_taken_away_while_it_is_needed(place: Place) -> None:
    """Somebody deletes it, or the clock was set: what is read then must not end well."""
    place.load(large())
    async with place.store() as store, exporter() as opened:
        planned = of_rootfs(await store.image(LARGE))
        async with opened.open(planned) as stream:
            await anext(stream)
            place.ctr("images", "delete", "--sync", LARGE)
            place.ctr("leases", "delete", "--sync", *(line.split()[0] for line in place.leases()))
            with pytest.raises(SourceChanged):
                async for _ in stream:
                    pass


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("plan", [plan_container, plan_diff])
async def test_a_container_is_removed_while_it_is_read(
    place: Place, plan: Callable[..., ExportPlan], again: bool
) -> None:
    place.load(large())
    place.ctr("containers", "create", LARGE, "c1", "/x")
    async with place.store() as store, exporter() as opened:
        container = await store.container("c1")
        upper = container.snapshot.upper
        assert upper is not None
        (Path(os.fsdecode(upper)) / "written").write_bytes(os.urandom(1 << 20) * 12)
        async with opened.open(plan(container, Options())) as stream:
            await anext(stream)
            place.ctr("containers", "delete", "c1")
            if again:
                place.ctr("containers", "create", LARGE, "c1", "/x")
            with pytest.raises(SourceChanged, match="c1"):
                async for _ in stream:
                    pass
        with pytest.raises(SourceChanged, match="c1"):
            await exports.body(plan(container, Options()))
    assert place.leases() == []


@pytest.mark.usefixtures("way")
async def test_a_reader_that_leaves(place: Place) -> None:
    place.load(large())
    async with place.store() as store, exporter() as opened:
        for plan in (of_layer, of_rootfs):
            async with opened.open(plan(await store.image(LARGE))) as stream:
                await anext(stream)
            assert place.released()


async def test_a_shutdown_while_something_is_read(place: Place) -> None:
    """Exports are broken off, then the store is closed."""
    place.load(large())
    async with place.store() as store, contextlib.AsyncExitStack() as stack:
        opened = await stack.enter_async_context(exporter())
        stream = opened.open(of_rootfs(await store.image(LARGE)))
        reader = await stream.__aenter__()
        await anext(reader)
        await stack.aclose()
        assert place.leases() == []
        with pytest.raises(Draining):
            async for _ in reader:
                pass
        await stream.__aexit__(None, None, None)


def test_a_killed_process_leaves_a_lease_that_expires(place: Place) -> None:
    place.load(large())
    command = [sys.executable, "-m", "streamer", "export", "rootfs", LARGE]
    with subprocess.Popen(
        [*command, "--store", f"c=containerd:{place.address}#{place.name}"], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.read(1)
            assert len(place.leases()) == 1
        finally:
            process.kill()
    (left,) = place.leases()
    assert "containerd.io/gc.expire=" in left
    place.ctr("leases", "delete", "--sync", left.split()[0])
    assert [line.split()[-1] for line in place.ctr.text("snapshots", "list").splitlines()[1:]] == ["Committed"] * 2


# Damage


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("damage", ["another content", "cut", "gone"])
async def test_blobs_that_are_damaged(place: Place, damage: str) -> None:
    _, two = samples()
    # Blobs are kept once for all namespaces.
    made = images.image(layer(file("mine", os.urandom(100))), names=[ONE], compression="gzip")
    place.load(made, two)
    path = place.blob(digest(made.blobs()[0]))
    data = path.read_bytes()
    path.chmod(0o600)
    if damage == "another content":
        path.write_bytes(bytes(len(data)))
    elif damage == "cut":
        path.write_bytes(data[:-20])
    else:
        path.unlink()
    async with place.store() as store:
        with pytest.raises((StoreDamaged, SourceChanged)):
            await exports.body(of_layer(await store.image(ONE)))
        assert [digest(body) for body in await bodies(await store.image(TWO))] == two.diff_ids
        # What was unpacked is still right.
        await exports.body(of_rootfs(await store.image(ONE)))
    assert place.leases() == []


def wait(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.02)
