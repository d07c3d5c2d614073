"""What only the embedded store can: containers, mounts, commit, removal; several processes; ordinary users."""

from __future__ import annotations

import asyncio
import io
import os
import resource
import sqlite3
import stat
import subprocess
import sys
import threading
from pathlib import Path

import anyio
import pytest
from support import images, leaks
from support.images import directory, file, layer, opaque, symlink, whiteout

from streamer.errors import (
    Conflict,
    InvalidReference,
    NotFound,
    NotPermitted,
    SourceChanged,
    StoreDamaged,
    StreamerError,
    Unsupported,
)
from streamer.stores.local.store import LocalStore

BASE = layer(
    directory("./", mode=0o751, uid=5, gid=6), directory("etc/"), file("etc/passwd", b"root"), file("old", b"x")
)
TOP = layer(file("etc/shadow", b"secret", mode=0o600))
MADE = images.image(BASE, TOP, names=["a:1", "a:2"])

root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


async def take(store: LocalStore, *made: images.MadeImage) -> None:
    await store.import_archive(images.Bytes(images.pack(images.docker(*made))))


@pytest.mark.root
async def test_container(tmp_path: Path) -> None:
    async with LocalStore.open(tmp_path) as store:
        await take(store, MADE)
        image = await store.image("a:1")
        made = await store.create("a:1", "box")
        assert (made.name, made.image, made.image_name) == ("box", MADE.id, "a:1")
        assert made.parent == image.layers[-1].snapshot
        assert made.snapshot.lowers == made.parent.lowers
        assert made.snapshot.upper is not None
        status = os.stat(made.snapshot.upper)
        assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (0o751, 5, 6)
        assert os.listdir(made.snapshot.upper) == []
        assert (await store.containers()).items == (made,)
        for reference in ("box", made.id, made.id[:12], made.id[:5]):
            assert await store.container(reference) == made
        unnamed = await store.create(MADE.id)
        assert (unnamed.name, unnamed.image_name) == (unnamed.id[:12], MADE.id)
        with pytest.raises(Conflict, match="box"):
            await store.create("a:2", "box")
        with pytest.raises(InvalidReference):
            await store.create("a:2", "../box")
        with pytest.raises(NotFound):
            await store.create("missing")
        assert len(os.listdir(tmp_path / "containers")) == 2
        assert made.guard is not None
        made.guard()
        await store.remove_container("box")
        with pytest.raises(SourceChanged):
            made.guard()
        with pytest.raises(NotFound):
            await store.container("box")
        assert os.listdir(tmp_path / "trash") == []


@root
@pytest.mark.root
@pytest.mark.parametrize("own", [True, False])
async def test_mount_change_unmount(own: bool, tmp_path: Path) -> None:
    async with LocalStore.open(tmp_path / "state") as store:
        await take(store, MADE)
        made = await store.create("a:1", "box")
        (tmp_path / "target").mkdir()
        place = await store.mount("box", None if own else tmp_path / "target")
        try:
            assert (place / "etc/passwd").read_text() == "root"
            (place / "etc/passwd").write_text("changed")
            (place / "old").unlink()
            assert (await store.container("box")).mounted == str(place)
            with pytest.raises(Conflict, match="mounted"):
                await store.mount("box")
            with pytest.raises(Conflict, match="mounted"):
                await store.remove_container("box")
        finally:
            await store.unmount("box")
        assert (await store.container("box")).mounted is None
        assert os.listdir(place) == []
        with pytest.raises(Conflict, match="not mounted"):
            await store.unmount("box")
        assert made.snapshot.upper is not None
        upper = Path(os.fsdecode(made.snapshot.upper))
        assert (upper / "etc/passwd").read_text() == "changed"
        assert stat.S_ISCHR((upper / "old").lstat().st_mode)
        assert not (tmp_path / "state" / "layers" / MADE.diff_ids[0][7:] / "diff" / "etc" / "new").exists()
        await store.mount("box")
        await store.remove_container("box", force=True)
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()


@root
@pytest.mark.root
@pytest.mark.parametrize("own", [True, False])
async def test_a_mounted_container_in_use(own: bool, tmp_path: Path) -> None:
    """Refused without a word of the store's own paths; by force it goes although somebody has a file open."""
    target = tmp_path / "target"
    target.mkdir()
    async with LocalStore.open(tmp_path / "state") as store:
        await take(store, MADE)
        made = await store.create("a:1", "box")
        place = await store.mount("box", None if own else target)
        try:
            with open(place / "etc/passwd", "rb") as used:
                for refused in (store.unmount("box"), store.remove_container("box"), store.mount("box")):
                    with pytest.raises(Conflict, match="container box is") as raised:
                        await refused
                    assert str(tmp_path / "state") not in str(raised.value)
                    assert own or str(target) in str(raised.value)
                await store.remove_container("box", force=True)
                assert used.read() == b"root"
        finally:
            if str(place) in Path("/proc/self/mountinfo").read_text():
                subprocess.run(["umount", "-l", place], check=True)
        assert not (await store.containers()).items
        assert not (tmp_path / "state/containers" / made.id).exists()
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()


@root
@pytest.mark.root
async def test_only_what_is_ours_is_unmounted(tmp_path: Path) -> None:
    """Somebody unmounted ours and mounted an overlay of his own in its place."""
    target = tmp_path / "target"
    for name in ("target", "lower", "upper", "work"):
        (tmp_path / name).mkdir()
    theirs = f"lowerdir={tmp_path}/lower,upperdir={tmp_path}/upper,workdir={tmp_path}/work"
    async with LocalStore.open(tmp_path / "state") as store:
        await take(store, MADE)
        await store.create("a:1", "box")
        await store.mount("box", target)
        subprocess.run(["umount", target], check=True)
        subprocess.run(["mount", "-t", "overlay", "theirs", "-o", theirs, target], check=True)
        try:
            assert (await store.container("box")).mounted is None
            with pytest.raises(Conflict, match="not mounted"):
                await store.unmount("box")
            await store.remove_container("box", force=True)
            assert target.is_mount()
        finally:
            subprocess.run(["umount", target], check=True)


@root
@pytest.mark.root
async def test_a_container_that_is_mounted_elsewhere_stays(tmp_path: Path) -> None:
    """In the mount namespace of another process: its data would go, or be ruined, under whoever works on it."""
    async with LocalStore.open(tmp_path / "state") as store:
        await take(store, MADE)
        made = await store.create("a:1", "box")
        place = await store.mount("box")
        with subprocess.Popen(
            ["unshare", "-m", "--propagation", "private", "sh", "-c", "echo ready; read line"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as other:
            assert other.stdout is not None
            assert other.stdout.readline() == b"ready\n"
            subprocess.run(["umount", place], check=True)
            for refused in (store.mount("box"), store.unmount("box"), store.remove_container("box")):
                with pytest.raises(Conflict, match=f"in another mount namespace .of process {other.pid}"):
                    await refused
            other.communicate(b"\n")
        assert made.snapshot.upper is not None
        assert os.path.isdir(made.snapshot.upper)
        await store.remove_container("box")


@root
@pytest.mark.root
async def test_a_store_that_was_moved_while_a_container_is_mounted(tmp_path: Path) -> None:
    async with LocalStore.open(tmp_path / "state") as store:
        await take(store, MADE)
        await store.create("a:1", "box")
        place = await store.mount("box")
    (tmp_path / "state").rename(tmp_path / "moved")
    async with LocalStore.open(tmp_path / "moved") as store:
        assert (await store.container("box")).mounted == str(tmp_path / "moved" / place.relative_to(tmp_path / "state"))
        with pytest.raises(Conflict, match="is mounted"):
            await store.remove_container("box")
        await store.unmount("box")
        await store.remove_container("box")


@root
@pytest.mark.root
async def test_the_stores_own_directories_are_no_place_to_mount(tmp_path: Path) -> None:
    async with LocalStore.open(tmp_path / "state") as store:
        await take(store, MADE)
        await store.create("a:1", "box")
        (tmp_path / "link").symlink_to("state/trash")
        for target in (tmp_path / "state/trash", tmp_path / "state", tmp_path / "link"):
            with pytest.raises(Conflict, match="inside of the store"):
                await store.mount("box", target)


@root
@pytest.mark.root
async def test_mount_of_an_empty_image_and_a_bad_target(tmp_path: Path) -> None:
    async with LocalStore.open(tmp_path / "state") as store:
        await take(store, images.image(names=["empty:1"]))
        await store.create("empty:1", "box")
        with pytest.raises(NotFound):
            await store.mount("box", tmp_path / "missing")
        (tmp_path / "full").mkdir()
        (tmp_path / "full" / "file").write_text("hidden by a mount")
        with pytest.raises(Conflict, match="is not empty"):
            await store.mount("box", tmp_path / "full")
        assert os.listdir(tmp_path / "full") == ["file"]
        assert (await store.container("box")).mounted is None
        place = await store.mount("box")
        try:
            (place / "new").write_text("new")
        finally:
            await store.unmount("box")


async def test_commit(tmp_path: Path) -> None:
    changes = layer(file("etc/new", b"new"), whiteout("old"))
    async with LocalStore.open(tmp_path) as store:
        await take(store, MADE)
        await store.create("a:1", "box")
        image = await store.commit("box", io.BytesIO(changes), "b", comment="why", author="me")
        assert image.config.diff_ids == (*MADE.diff_ids, images.sha256(changes))
        assert [name.familiar for name in image.names] == ["b:latest"]
        value = image.config.value
        assert value["config"] == {"Cmd": ["/bin/sh"]}
        assert value["history"][-1]["comment"] == "why"
        assert value["history"][-1]["author"] == "me"
        assert image.layers[-1].assemble is not None
        assert b"".join(image.layers[-1].assemble()) == changes
        before = len(os.listdir(tmp_path / "layers"))
        with pytest.raises(StreamerError):
            await store.commit("box", io.BytesIO(changes[:700]), "c")
        with pytest.raises(NotFound):
            await store.commit("nobody", io.BytesIO(changes), "c")
        assert len(os.listdir(tmp_path / "layers")) == before
        assert len(await store.images()) == 2
        # The container keeps its image's layers when the image goes.
        await store.remove_image(MADE.id, force=True)
        again = await store.commit("box", io.BytesIO(changes), "again", comment="why")
        assert again.config.diff_ids == image.config.diff_ids


async def test_removing_images(tmp_path: Path) -> None:
    other = images.image(BASE, layer(file("other", b"o")), names=["other:1"])
    async with LocalStore.open(tmp_path) as store:
        await take(store, MADE, other)
        assert len(os.listdir(tmp_path / "layers")) == 3
        with pytest.raises(Conflict, match="several names"):
            await store.remove_image(MADE.id)
        removed = await store.remove_image("a:2")
        assert (removed.untagged, removed.image, removed.layers) == (("a:2",), None, 0)
        await store.create("a:1", "box")
        with pytest.raises(Conflict, match="box"):
            await store.remove_image("a:1")
        removed = await store.remove_image("a:1", force=True)
        assert (removed.untagged, removed.image, removed.layers) == (("a:1",), MADE.id, 0)
        assert len(os.listdir(tmp_path / "layers")) == 3
        container = await store.container("box")
        assert container.guard is not None
        container.guard()
        await store.remove_container("box")
        assert len(os.listdir(tmp_path / "layers")) == 2
        removed = await store.remove_image(other.id[7:19])
        assert removed.layers == 2
        assert os.listdir(tmp_path / "layers") == os.listdir(tmp_path / "trash") == []
        with pytest.raises(NotFound):
            await store.remove_image("other:1")


async def test_tag(tmp_path: Path) -> None:
    other = images.image(TOP, names=["b:1"])
    async with LocalStore.open(tmp_path) as store:
        await take(store, MADE, other)
        await store.tag("a:1", "quay.io/x/y")
        assert (await store.image("quay.io/x/y:latest")).id == MADE.id
        await store.tag("a:1", "b:1")
        assert (await store.image(other.id)).names == ()
        with pytest.raises(InvalidReference):
            await store.tag("a:1", "UPPER")
        with pytest.raises(NotFound):
            await store.tag("c:1", "d:1")


async def test_a_changed_file_is_noticed(tmp_path: Path) -> None:
    async with LocalStore.open(tmp_path) as store:
        await take(store, MADE)
        stored = (await store.image("a:1")).layers[0]
        assert stored.assemble is not None
        diff = Path(os.fsdecode(stored.snapshot.lowers[0]))
        good = (diff / "etc/passwd").read_bytes()
        for wrong in (b"rOOt", b"roo", b"root\n"):
            (diff / "etc/passwd").write_bytes(wrong)
            with pytest.raises(SourceChanged, match="etc/passwd"):
                list(stored.assemble())
        (diff / "etc/passwd").unlink()
        (diff / "etc/passwd").symlink_to("/etc/passwd")
        with pytest.raises(SourceChanged, match="etc/passwd"):
            list(stored.assemble())
        (diff / "etc/passwd").unlink()
        os.mkfifo(diff / "etc/passwd")
        with pytest.raises(SourceChanged, match="etc/passwd"):
            list(stored.assemble())
        (diff / "etc/passwd").unlink()
        (diff / "etc/passwd").write_bytes(good)
        list(stored.assemble())
        (diff.parent / "tar-split.json.gz").unlink()
        with pytest.raises(StoreDamaged, match="tar-split"):
            list(stored.assemble())


async def test_a_layer_removed_during_assembly_is_noticed(tmp_path: Path) -> None:
    big = images.image(layer(*(file(f"f{n}", os.urandom(400_000)) for n in range(8))), names=["big:1"])
    async with LocalStore.open(tmp_path) as store:
        await take(store, big)
        stored = (await store.image("big:1")).layers[0]
        assert stored.assemble is not None
        chunks = stored.assemble()
        next(chunks)
        await store.remove_image("big:1")
        with pytest.raises(SourceChanged):
            list(chunks)
        with pytest.raises(SourceChanged):
            list(stored.assemble())


async def test_an_import_repairs_a_lost_layer(tmp_path: Path) -> None:
    async with LocalStore.open(tmp_path) as store:
        await take(store, MADE)
        await store.create("a:1", "box")
        for lost in ([0], [1], [0, 1]):
            chains = images.chain_ids(MADE.diff_ids)
            for number in lost:
                (tmp_path / "layers" / chains[number][7:]).rename(tmp_path / f"lost-{number}-{len(lost)}")
            broken = await store.image("a:1")
            assert broken.layers[-1].guard is not None
            with pytest.raises(SourceChanged):
                broken.layers[-1].guard()
            report = await store.import_archive(images.Bytes(images.pack(images.docker(MADE))))
            assert (report.layers_new, report.layers_shared) == (len(lost), 2 - len(lost))
            for found, data in zip((await store.image("a:1")).layers, MADE.layers, strict=True):
                assert found.guard is not None
                assert found.assemble is not None
                found.guard()
                assert b"".join(found.assemble()) == data
        assert len(await store.layers()) == 2
        assert os.listdir(tmp_path / "staging") == os.listdir(tmp_path / "trash") == []


async def test_abandoned_assembly_leaves_no_descriptor(tmp_path: Path) -> None:
    async with LocalStore.open(tmp_path) as store:
        await take(store, images.image(layer(*(file(f"f{n}", os.urandom(400_000)) for n in range(8))), names=["big:1"]))
        stored = (await store.image("big:1")).layers[0]
        assert stored.assemble is not None
        before = leaks.held()
        chunks = stored.assemble()
        next(chunks)
        chunks.close()  # type: ignore[attr-defined]
        assert leaks.held().beyond(before) == []


async def test_nothing_stays_open(tmp_path: Path) -> None:
    async with LocalStore.open(tmp_path) as store:
        await take(store, MADE)
    before = leaks.held()
    async with LocalStore.open(tmp_path) as store:
        await take(store, MADE)
        with pytest.raises(StreamerError):
            await store.import_archive(images.Bytes(b"nonsense" * 200))
        await store.create("a:1")
    assert await leaks.settles(before) == []


async def test_two_imports_of_one_archive_at_once(tmp_path: Path) -> None:
    archive = images.pack(images.docker(MADE))
    async with LocalStore.open(tmp_path) as one, LocalStore.open(tmp_path) as two:
        async with anyio.create_task_group() as tasks:
            for store in (one, two, one, two):
                tasks.start_soon(store.import_archive, images.Bytes(archive, most=333))
        assert len(await one.images()) == 1
        assert len(os.listdir(tmp_path / "layers")) == 2
        assert os.listdir(tmp_path / "staging") == os.listdir(tmp_path / "trash") == []


async def test_removal_spares_what_an_import_builds_on(tmp_path: Path) -> None:
    """The import has found the base layer in the store when its image is removed: the layer must stay."""

    more = images.image(BASE, layer(file("more", b"more")), names=["more:1"])
    async with LocalStore.open(tmp_path) as store:
        await take(store, images.image(BASE, names=["base:1"]))
        layout = images.unpack_to(images.oci(more), tmp_path / "layout")
        blob = layout / f"blobs/sha256/{images.encoded(more.layers[1])}"
        reached, go_on = threading.Event(), threading.Event()

        def progress(count: int) -> None:
            # The base is verified and held by the time the second layer's blob is read.
            if count > blob.stat().st_size + len(BASE):
                reached.set()
                go_on.wait(60)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: store.import_archive(layout, progress=progress))
            await asyncio.to_thread(reached.wait, 60)
            removed = await store.remove_image("base:1")
            go_on.set()
        assert removed.layers == 0
        image = await store.image("more:1")
        assert image.layers[0].assemble is not None
        assert b"".join(image.layers[0].assemble()) == BASE
        assert (await store.remove_image("more:1")).layers == 2


async def test_cancelled_import_leaves_nothing(tmp_path: Path) -> None:
    archive = images.pack(images.docker(images.image(layer(*(file(f"f{n}", os.urandom(50_000)) for n in range(60))))))
    async with LocalStore.open(tmp_path) as store:
        for after in (1, 100_000, 1_000_000, len(archive)):
            with anyio.CancelScope() as scope:

                def progress(count: int, after: int = after, scope: anyio.CancelScope = scope) -> None:
                    if count >= after:
                        anyio.from_thread.run_sync(scope.cancel)

                await store.import_archive(images.Bytes(archive, most=10_000), progress=progress)
            assert scope.cancelled_caught
            assert os.listdir(tmp_path / "staging") == os.listdir(tmp_path / "layers") == []
            assert not (await store.images()).items


@pytest.mark.slow
async def test_memory_does_not_grow_with_the_layer(tmp_path: Path) -> None:
    """100,000 files and a 200 MiB file, in and out, in a process of its own."""
    program = """
import asyncio, sys
from pathlib import Path
sys.path[:0] = sys.argv[2:]
from support import images
from streamer.stores.local.store import LocalStore

class Made:
    "A layer made while it is read."
    def __init__(self):
        self.parts = self.tar()
        self.rest = b""
    def tar(self):
        for number in range(100_000):
            info, data = images.file(f"directory-{number % 100}/file-{number}", b"x" * (number % 3))
            yield info.tobuf() + data + bytes(-len(data) % 512)
        info, _ = images.file("large")
        info.size = 200 << 20
        yield info.tobuf()
        block = bytes(range(256)) * 4096
        for _ in range(200):
            yield block
        yield bytes(1024)
    def read(self, n):
        if not self.rest:
            self.rest = next(self.parts, b"")
        data, self.rest = self.rest[:n], self.rest[n:]
        return data

def most():
    "The peak in MiB; ru_maxrss would count the process that started this one."
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) >> 10

async def main():
    async with LocalStore.open(Path(sys.argv[1])) as store:
        before = most()
        report = await store.import_archive(Made(), name="large", kind="rootfs")
        size = 0
        for chunk in report.images[0].layers[0].assemble():
            size += len(chunk)
        assert size == report.bytes, (size, report.bytes)
        print(before, most())

asyncio.run(main())
"""
    here = Path(__file__).parents[4]
    paths = [os.fspath(here), os.fspath(here / "tests")]
    command = [sys.executable, "-c", program, os.fspath(tmp_path), *paths]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    before, after = map(int, done.stdout.split())
    assert after < 120
    assert after - before < 50


@root
async def test_ordinary_user(tmp_path: Path) -> None:
    """A store of a user's own: owners are that user's, marks are user.overlay.*, the bytes are the same."""
    state = tmp_path / "state"
    state.mkdir()
    os.chown(state, 12345, 12345)
    for folder in [tmp_path, *tmp_path.parents][:-1]:
        folder.chmod(folder.stat().st_mode | 0o011)
    odd = images.image(
        layer(directory("d/", mode=0), file("d/x", b"x", mode=0, uid=7), images.node("null"), file("gone", b"gone")),
        layer(whiteout("gone"), directory("d/"), opaque("d"), symlink("l", "d"), file("l/y", b"y")),
        names=["a:1"],
    )
    archive = tmp_path / "archive.tar"
    archive.write_bytes(images.pack(images.docker(odd)))
    # As root once, elsewhere: everything is imported then, for the interpreter may lie where only root can read it.
    program = """
import asyncio, hashlib, os, sys
from pathlib import Path
from streamer.errors import NotPermitted
from streamer.mounts.mount import Ids
from streamer.stores.local.store import LocalStore

async def main(state, remove):
    async with LocalStore.open(state) as store:
        with open(sys.argv[2], "rb") as archive:
            await store.import_archive(archive)
        image = await store.image("a:1")
        for layer in image.layers:
            expected = None if os.getuid() == 0 else Ids(((0, 12345, 1),), ((0, 12345, 1),))
            assert layer.snapshot.ids == expected, layer.snapshot
            assert layer.snapshot.userxattr == (os.getuid() != 0)
            assert "sha256:" + hashlib.sha256(b"".join(layer.assemble())).hexdigest() == layer.diff_id
        await store.create("a:1", "box")
        try:
            await store.mount("box")
            await store.unmount("box")
        except NotPermitted:
            print("not permitted")
        await store.remove_container("box")
        if remove:
            await store.remove_image("a:1")

asyncio.run(main(Path(sys.argv[3]), True))
os.setgroups([])
os.setgid(12345)
os.setuid(12345)
asyncio.run(main(Path(sys.argv[1]), len(sys.argv) > 4))
"""
    home = os.fspath(Path(__file__).parents[4])

    async def run(*more: str) -> None:
        command = [sys.executable, "-c", program, str(state), str(archive), str(tmp_path / "warm"), *more]
        done = await asyncio.to_thread(
            subprocess.run, command, env={"PYTHONPATH": home}, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout) == (0, "not permitted\n"), done.stderr

    await run()
    # Root may look, but not change: its files would lock the user out.
    async with LocalStore.open(state) as store:
        assert len(await store.images()) == 1
        with pytest.raises(NotPermitted, match="12345"):
            await store.create("a:1")
        with pytest.raises(NotPermitted, match="12345"):
            await store.import_archive(archive)
        with pytest.raises(NotPermitted, match="12345"):
            await store.remove_image("a:1")
    await run("remove")
    assert os.listdir(state / "layers") == os.listdir(state / "trash") == []


async def test_state_directory_is_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        async with LocalStore.open(tmp_path / "new" / "state") as store:
            await take(store, MADE)
            assert store.location == f"local:{tmp_path}/new/state"
        assert stat.S_IMODE((tmp_path / "new" / "state").stat().st_mode) == 0o700
        assert stat.S_IMODE((tmp_path / "new" / "state" / "streamer.db").stat().st_mode) == 0o600
    finally:
        os.umask(before)


async def test_database_of_a_newer_streamer(tmp_path: Path) -> None:
    async with LocalStore.open(tmp_path):
        pass
    with sqlite3.connect(tmp_path / "streamer.db") as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(Unsupported, match="newer"):
        async with LocalStore.open(tmp_path):
            pass


async def test_damaged_database(tmp_path: Path) -> None:
    (tmp_path / "streamer.db").write_bytes(b"this is not a database" * 1000)
    with pytest.raises(StoreDamaged, match=r"streamer\.db"):
        async with LocalStore.open(tmp_path):
            pass


async def test_too_few_descriptors_is_an_error_of_ours(tmp_path: Path) -> None:
    many = images.image(*(layer(file(f"f{number}", b"x")) for number in range(120)), names=["many:1"])
    async with LocalStore.open(tmp_path) as store:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 60, hard))
        try:
            with pytest.raises(StreamerError):
                await take(store, many)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert os.listdir(tmp_path / "staging") == os.listdir(tmp_path / "layers") == []
        await take(store, many)
        assert len((await store.image("many:1")).layers) == 120
