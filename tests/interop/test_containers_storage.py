"""Stores that podman and Buildah made: every layer as it came in, and their commands never kept waiting."""

from __future__ import annotations

import fcntl
import os
import stat
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from support import images
from support.engines import Engines, needs
from support.factories.containers_storage import Made, copied, place, program
from support.images import directory, file, layer, link, opaque, symlink, whiteout

from streamer.errors import SourceChanged
from streamer.stores.base import Store
from streamer.stores.containers_storage.options import StorageOptions
from streamer.stores.containers_storage.store import containers_storage

pytestmark = [pytest.mark.engine, pytest.mark.root]

LIMITS = ("--network", "none", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024")
_FLOCK = struct.Struct("@hhqqi0q")

ODD = layer(
    *(directory("d/"), file("d/\udcff\udcfe", b"not UTF-8"), file("d/" + "n" * 200, b"long"), symlink("d/s", "../x")),
    *(file("hard", b"h" * 70_000), link("d/hard", "hard"), file("empty"), whiteout("etc/gone"), opaque("etc/sub")),
    file("d/x", b"x", pax_headers={"SCHILY.xattr.user.a": "b"}),
    end=bytes(10240),
)
BASE = layer(directory("./etc/"), file("./etc/gone", b"g"), directory("./etc/sub/"), file("./etc/sub/x", b"x"))
IMAGE = images.image(BASE, ODD, layer(file("late", b"late"), end=bytes(512)), names=["shop/tool:1"])
ZIPPED = images.image(BASE, layer(file("zipped", os.urandom(200_000))), names=["shop/zipped:1"], compression="gzip")


@contextmanager
def loaded(engines: Engines, driver: str = "overlay") -> Iterator[Made]:
    with copied(engines, [IMAGE], driver) as made:
        yield made


def opened(made: Made) -> Store:
    return containers_storage("podman", made.root, made.run)


async def byte_for_byte(store: Store) -> int:
    """Every layer has the digest and the length that were promised; how many there are."""
    listing = await store.layers()
    assert not listing.damaged
    for found in listing:
        assert found.assemble is not None
        assert found.guard is not None
        data = await anyio.to_thread.run_sync(lambda assemble=found.assemble: b"".join(assemble()))
        assert (images.sha256(data), len(data)) == (found.diff_id, found.size)
        found.guard()
    return len(listing)


@pytest.mark.parametrize("driver", ["overlay", "vfs"])
async def test_every_layer_is_what_came_in(engines: Engines, driver: str) -> None:
    """Loaded (plain and gzip), built, committed by podman and by Buildah."""
    with loaded(engines, driver) as made:
        podman = made.podman
        podman("load", "--quiet", stdin=images.pack(images.docker(ZIPPED)))
        podman("commit", "--quiet", podman.text("create", "--network", "none", "shop/tool:1", "/x"), "committed:1")
        (made.home / "Dockerfile").write_text("FROM shop/tool:1\nCOPY Dockerfile /a/b/c\nCOPY Dockerfile /d\n")
        podman("build", "--quiet", "--layers", "--tag", "built:1", made.home)
        buildah = program(engines, made.home, name="buildah", driver=driver)
        working = buildah.text("from", "built:1")
        buildah("copy", working, made.home / "Dockerfile", "/added")
        buildah("commit", "--quiet", working, "by-buildah:1")
        store = opened(made)
        assert await byte_for_byte(store) >= 3 + 1 + 2 + 1
        for name in ("shop/tool:1", "shop/zipped:1", "committed:1", "built:1", "by-buildah:1"):
            found = await store.image(name)
            assert found.layers
            assert found.id == "sha256:" + podman.text("image", "inspect", "--format", "{{.Id}}", name)
        container = await store.container(working)
        assert (container.status, container.freezer) == ("", None)
        assert container.image == (await store.image("built:1")).id


async def test_what_podman_lists_is_listed(engines: Engines) -> None:
    with loaded(engines) as made:
        made.podman("tag", "shop/tool:1", "other.org/a/b:2", "short:3")
        store = opened(made)
        (image,) = await store.images()
        told = {name for each in made.podman.json("images", "--format", "json") for name in each["Names"]}
        assert {name.name for name in image.names} == told
        for name in told | {"short:3"}:
            assert (await store.image(name)).id == image.id


async def test_status_of_containers(engines: Engines) -> None:
    """As podman has it, with one that goes when it ends (`--rm`)."""
    busybox = images.image(layer(file("busybox", Path("/bin/busybox").read_bytes(), mode=0o755)), names=["bb:1"])
    with loaded(engines) as made:
        podman = made.podman
        podman("load", "--quiet", stdin=images.pack(images.docker(busybox)))
        podman("create", *LIMITS, "--name", "created", "bb:1", "/busybox", "true")
        podman("run", *LIMITS, "--name", "exited", "bb:1", "/busybox", "true")
        sleep = ("bb:1", "/busybox", "sleep", "1000")
        podman("run", "--detach", *LIMITS, "--name", "running", *sleep)
        podman("run", "--detach", *LIMITS, "--rm", "--name", "volatile", *sleep)
        podman("run", "--detach", *LIMITS, "--name", "paused", *sleep)
        podman("pause", "paused")
        try:
            store = opened(made)
            told = {each["Names"][0]: each["State"] for each in podman.json("ps", "--all", "--format", "json")}
            assert told.keys() == {"created", "exited", "running", "volatile", "paused"}
            found = {each.name: each for each in await store.containers()}
            assert {name: each.status for name, each in found.items() if name in told} == told
            assert found["running"].image_name == "localhost/bb:1"
            assert found["running"].image == busybox.id
            assert found["running"].freezer is not None
            volatile = found["volatile"]
            assert volatile.guard is not None
            volatile.guard()
        finally:
            podman("unpause", "paused")
            podman("rm", "--force", "--all", "--time", "0")
        with pytest.raises(SourceChanged):
            volatile.guard()


async def test_owners_of_a_container_in_a_user_namespace(engines: Engines) -> None:
    """Numbers on disk are a mixture of shifted and not: what the container sees is what is told."""
    program_ = file("busybox", Path("/bin/busybox").read_bytes(), mode=0o755)
    image = images.image(layer(program_, file("old", b"x", uid=7, gid=8), file("changed", b"x", uid=9)), names=["bb:1"])
    with loaded(engines) as made:
        made.podman("load", "--quiet", stdin=images.pack(images.docker(image)))
        script = "/busybox touch /new /changed; /busybox chown 5:6 /new; /busybox chmod 700 /changed"
        maps = ("--uidmap", "0:100000:5000", "--gidmap", "0:200000:5000")
        made.podman("run", *LIMITS, *maps, "--name", "mapped", "bb:1", "/busybox", "sh", "-c", script)
        snapshot = (await opened(made).container("mapped")).snapshot
        assert snapshot.ids is not None
        upper, lower = Path(os.fsdecode(snapshot.layers[0])), Path(os.fsdecode(snapshot.layers[1]))
        on_disk = [(upper / "new").stat(), (upper / "changed").stat(), (lower / "old").stat()]
        assert [status.st_uid for status in on_disk] == [100_005, 100_009, 7]
        inside = [snapshot.ids.inside(status.st_uid, status.st_gid) for status in on_disk]
        assert inside == [(5, 6), (9, 0), (7, 8)]


async def test_end_check_sees_an_image_come_back(engines: Engines) -> None:
    """The layers of an image that is removed and loaded anew have the same IDs, and are others."""
    with loaded(engines) as made:
        made.podman("rm", "--force", "--all")
        made.podman("rm", "--force", "box")
        store = opened(made)
        top = (await store.image(IMAGE.id)).layers[-1]
        box_guard = top.guard
        assert box_guard is not None
        made.podman("image", "rm", "--force", IMAGE.id)
        with pytest.raises(SourceChanged):
            box_guard()
        made.podman("load", "--quiet", stdin=images.pack(images.docker(IMAGE)))
        again = (await store.image(IMAGE.id)).layers[-1]
        assert again.snapshot == top.snapshot
        with pytest.raises(SourceChanged):
            box_guard()
        assert again.guard is not None
        again.guard()


async def test_podman_is_never_kept_waiting(engines: Engines) -> None:
    """Readings in a loop, all of changed lists: no lock is held for longer than a moment."""
    with loaded(engines) as made:
        store = opened(made)
        lists = sorted((made.root / "overlay-layers").glob("*.json"))
        ended = threading.Event()
        held: list[float] = []
        watcher = threading.Thread(target=_watch, args=(made.root / "overlay-layers/layers.lock", ended, held))
        watcher.start()

        async def read() -> None:
            while not ended.is_set():
                for path in lists:
                    os.utime(path)
                await store.layers()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            for _ in range(5):
                await anyio.to_thread.run_sync(lambda: made.podman("images"))
            ended.set()
        watcher.join()
        assert held, "nothing was read meanwhile"
        # The middle one: now and then a machine with other work lets whoever holds it wait.
        assert sorted(held)[len(held) // 2] < 0.1


def _watch(path: Path, ended: threading.Event, held: list[float]) -> None:
    """How long, in seconds, somebody kept a writer of `path` waiting each time: podman's own exclusive locks aside."""
    since: float | None = None
    with open(path, "r+b") as lock:
        while not ended.is_set():
            asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            kind = _FLOCK.unpack(fcntl.fcntl(lock, fcntl.F_OFD_GETLK, asked))[0]
            now = time.monotonic()
            if kind == fcntl.F_RDLCK:
                since = since or now
            elif since is not None:
                held.append(now - since)
                since = None


async def test_additional_image_store(engines: Engines) -> None:
    """A container of podman's on an image that another store holds, read only."""
    home = place(engines)
    with loaded(engines) as shared:
        option = ("--storage-opt", f"additionalimagestore={shared.root}")
        podman = program(engines, home, *option)
        podman("create", "--network", "none", "--name", "box", "shop/tool:1", "/x")
        store = containers_storage("podman", home / "root", options=StorageOptions(additional=(shared.root,)))
        box = await store.container("box")
        assert box.image == IMAGE.id
        assert box.guard is not None
        box.guard()
        assert box.snapshot.upper is not None
        assert box.snapshot.upper.startswith(bytes(home))
        assert all(path.startswith(bytes(shared.root)) for path in box.snapshot.lowers)
        assert len(box.snapshot.lowers) == 3
        assert await byte_for_byte(store) == 3
        podman("rm", "box")


class Rootless:
    """Buildah with the store of an ordinary user, in a user namespace as podman makes them."""

    UID = 1234
    MAP = f"0 {UID} 1\n1 100000 65536\n"

    def __init__(self, engines: Engines) -> None:
        self.home = place(engines)
        os.chown(self.home, self.UID, self.UID)
        os.mknod(self.home / "fuse", stat.S_IFCHR, os.makedev(10, 229))
        os.chmod(self.home / "fuse", 0o666)
        self._holder = engines.inside("/").parent
        for name in ("subuid", "subgid"):
            (self.home / name).write_text(f"{self.UID}:100000:65536\n")
        self.options = StorageOptions(subuid=self.home / "subuid", subgid=self.home / "subgid")

    def run(self, script: str, *options: str) -> None:
        variables = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "XDG_RUNTIME_DIR": str(self.home),
            "_CONTAINERS_USERNS_CONFIGURED": "done",
            "_CONTAINERS_ROOTLESS_UID": str(self.UID),
            "_CONTAINERS_ROOTLESS_GID": str(self.UID),
            "B": " ".join(["buildah", "--root", f"{self.home}/root", "--runroot", f"{self.home}/run", *options]),
        }
        # A device that ordinary users may open, as on desktops, and only here.
        outer = f"mount --bind {self.home}/fuse /dev/fuse; exec unshare --mount --user --keep-caps sh -c "
        inner = 'echo ready; read go; exec setpriv --reuid 0 --regid 0 --clear-groups sh -ec "$0"'
        command = ["nsenter", f"--mount={self._holder}/ns/mnt", "--", "unshare", "--mount", "sh", "-ec"]
        with subprocess.Popen(
            [*command, f'{outer} "$0" "$1"', inner, script],
            env=variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            for kind in ("uid", "gid"):
                Path(f"/proc/{process.pid}/{kind}_map").write_text(self.MAP)
            told, _ = process.communicate("go\n", timeout=120)
        assert process.returncode == 0, told


BUILD = """
c=$($B from scratch); m=$($B mount $c)
mkdir $m/d $m/e; echo x > $m/d/x; echo y > $m/e/y; chown 5:6 $m/d/x
$B umount $c; $B commit -q $c base:1
c=$($B from --name box base:1); m=$($B mount $c)
rm -r $m/d; mkdir $m/d; echo z > $m/d/z; rm $m/e/y; chown 7:8 $m/d/z
$B commit -q $c two:1
"""


@pytest.mark.parametrize("fuse", [False, True])
async def test_a_store_of_an_ordinary_user(engines: Engines, fuse: bool) -> None:
    """Marks are `user.overlay.*`, or those of fuse-overlayfs; owners are numbered by the user's subordinate IDs."""
    rootless = Rootless(engines)
    options = ["--storage-driver", "overlay"]
    if fuse:
        needs("fuse-overlayfs")
        options += ["--storage-opt", "overlay.mount_program=/usr/bin/fuse-overlayfs"]
    rootless.run(BUILD, *options)
    store = containers_storage("user", rootless.home / "root", options=rootless.options)
    assert await byte_for_byte(store) == 2
    box = await store.container("box")
    for snapshot in (box.snapshot, (await store.image("two:1")).layers[-1].snapshot):
        assert snapshot is not None
        assert (snapshot.driver, snapshot.userxattr) == ("fuse-overlay" if fuse else "overlay", True)
        assert snapshot.ids is not None
        status = os.stat(snapshot.layers[0] + b"/d/z")
        assert snapshot.ids.inside(status.st_uid, status.st_gid) == (7, 8)
        root = os.stat(snapshot.layers[0] + b"/d")
        assert (root.st_uid, snapshot.ids.inside(root.st_uid, root.st_gid)) == (Rootless.UID, (0, 0))
