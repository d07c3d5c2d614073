"""Docker's data-root as a real engine writes it: layers byte for byte, containers in every state, remapped owners."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest
from support import archives, exports, images
from support.archives import Record, same_tree, unpacked
from support.dockerd import dockerd
from support.engines import READY, Command, Engines
from support.images import file, layer
from support.samples import images as samples
from support.views import INIT, INIT_PARENTS

from streamer.errors import NotFound, SourceChanged
from streamer.export.container import plan_container
from streamer.export.diff import plan_diff
from streamer.export.layer import plan_layer
from streamer.export.plan import Options
from streamer.mounts.mount import OVERFLOW
from streamer.stores.base import Image, Layer, Store
from streamer.stores.docker.store import docker_store, uses_containerd

pytestmark = [pytest.mark.engine, pytest.mark.root]

DOCKERFILE = """
FROM scratch
COPY busybox /bin/busybox
RUN ["/bin/busybox", "--install", "-s", "/bin"]
RUN mkdir -p /a/b /gone && echo x > /a/b/x && echo y > /gone/y && ln /a/b/x /a/hard && mkfifo /fifo && chmod 4755 /a/b/x
RUN rm -r /gone && rm /a/hard && rm -r /a/b && mkdir /a/b && echo z > /a/b/z
ENV layer=none
COPY large /large
"""

# What a container does to its image; then it waits.
CHANGES = """
echo new > /new; mkdir -p /deep/er; echo x > /deep/er/file; rm /a/b/z; rmdir /a/b; echo file > /a/b; chmod 600 /large
rm -r /home; mkdir /home; echo own > /home/own; chown 12:34 /home/own; ln /new /new-too; ln -s nowhere /dangling
mknod /device c 1 3; mkfifo /another; touch -d @1000000000 /new
"""


@pytest.fixture(scope="module")
def engine(engines: Engines, containerd: Path) -> Iterator[Command]:
    """A daemon that holds just what these tests make: every layer of it is looked at."""
    with dockerd(engines, containerd, "store") as docker:
        yield docker


@pytest.fixture(scope="module")
def store(engine: Command) -> Store:
    return docker_store("docker", engine.root)


@pytest.fixture(scope="module")
def built(engine: Command, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An image by the engine's own (classic) builder."""
    context = tmp_path_factory.mktemp("context")
    (context / "Dockerfile").write_text(DOCKERFILE)
    (context / "busybox").write_bytes(Path("/bin/busybox").read_bytes())
    (context / "busybox").chmod(0o755)
    (context / "large").write_bytes(os.urandom(3 << 20))
    engine("build", "-q", "--network", "none", "-t", "built:1", context)
    return "built:1"


def _entries(data: bytes) -> list[Record]:
    """Docker up to 23 writes a file's type into its mode as well."""
    return [record._replace(mode=record.mode & 0o7777) for record in archives.entries(data)]


async def _each_is_right(layers: tuple[Layer, ...]) -> None:
    for found in layers:
        data = await exports.body(plan_layer(found, Options()))
        assert "sha256:" + hashlib.sha256(data).hexdigest() == found.diff_id
        assert len(data) == found.size
        assert found.guard is not None
        found.guard()


async def test_built_image(engine: Command, store: Store, built: str) -> None:
    image = await store.image(built)
    told = engine.json("image", "inspect", built)[0]
    assert (image.id, [each.diff_id for each in image.layers]) == (told["Id"], told["RootFS"]["Layers"])
    assert len(image.layers) == 5
    await _each_is_right(image.layers)
    # The steps of the build are images too, without names.
    assert {each.id for each in await store.images()} >= set(engine.text("images", "-aq", "--no-trunc").split())


async def test_loaded_image(engine: Command, store: Store) -> None:
    one, two = samples()
    engine("load", stdin=images.pack(images.docker(one, two)))
    for made in (one, two):
        image = await store.image(made.id)
        assert sorted(name.name for name in image.names) == sorted(made.names)
        assert [each.diff_id for each in image.layers] == made.diff_ids
        await _each_is_right(image.layers)
    engine("rmi", *one.names, *two.names)


async def test_imported_image(engine: Command, store: Store) -> None:
    data = layer(file("only", b"x"), file("a" * 200, b"long"))
    identity = engine("import", "-", stdin=data).decode().strip()
    image: Image = await store.image(identity)
    assert [each.diff_id for each in image.layers] == [images.sha256(data)]
    await _each_is_right(image.layers)
    engine("rmi", identity)


async def test_committed_layer_is_the_diff(engine: Command, store: Store, built: str) -> None:
    """What `docker commit` makes of a container's changes, and the very same entries from streamer."""
    engine("run", "--network", "none", "--name", "changed", built, "sh", "-c", CHANGES)
    try:
        identity = engine.text("commit", "changed", "committed:1")
        committed = (await store.image(identity)).layers
        await _each_is_right(committed)
        assert committed[-1].assemble is not None
        theirs = b"".join(committed[-1].assemble())
        ours = await exports.body(plan_diff(await store.container("changed"), Options()))
        assert _entries(ours) == _entries(theirs)
        assert {b"a/.wh.b", b".dockerenv"}.isdisjoint(record.name for record in _entries(ours))
    finally:
        engine("rm", "-f", "changed")
        engine("rmi", "-f", "committed:1")


@pytest.mark.parametrize("state", ["created", "running", "paused", "exited"])
async def test_container(engine: Command, store: Store, built: str, tmp_path: Path, state: str) -> None:
    name = f"is-{state}"
    if state == "created":
        engine("create", "--network", "none", "--name", name, built, "sh")
    else:
        script = CHANGES + ("" if state == "exited" else "echo ready; exec sleep 1000")
        engine("run", "-d", "--network", "none", "--name", name, built, "sh", "-c", script)
        if state == "exited":
            engine("wait", name)
        else:
            _until(lambda: "ready" in engine.text("logs", name))
        if state == "paused":
            engine("pause", name)
    try:
        container = await store.container(name)
        assert container.status == state
        assert container.image_name == built
        assert container.id == engine.text("inspect", "--format", "{{.Id}}", name)
        ours = await exports.body(plan_container(container, Options()))
        theirs = engine("export", name)
        assert sorted(_entries(ours)) == sorted(_entries(theirs))
        same_tree(unpacked(ours, tmp_path / "ours"), unpacked(theirs, tmp_path / "theirs"), seconds=True)
        # Applied to the image, the diff gives the container.
        diff = await exports.body(plan_diff(container, Options()))
        _applied(engine, await store.image(built), diff, tmp_path / "ours", tmp_path)
        kinds = {line[0] + record for line in engine.text("diff", name).splitlines() for record in [line[2:]]}
        assert {"A/new", "C/a/b"} <= kinds if state != "created" else kinds == set()
    finally:
        if state == "paused":
            engine("unpause", name)
        engine("rm", "-f", name)
    assert container.guard is not None
    with pytest.raises(SourceChanged):
        container.guard()
    with pytest.raises(NotFound):
        await store.container(name)


def _applied(engine: Command, image: Image, diff: bytes, tree: Path, scratch: Path) -> None:
    lower = [b"".join(each.assemble()) for each in image.layers if each.assemble]
    made = images.image(*lower, diff, names=["applied:1"])
    engine("load", stdin=images.pack(images.docker(made)))
    container = engine.text("create", made.id, "/none")
    try:
        seen = unpacked(engine("export", container), scratch / "applied")
        same_tree(seen, tree, seconds=True, untimed=(*INIT, *INIT_PARENTS))
    finally:
        engine("rm", container)
        engine("rmi", made.id)


def _until(holds: object, limit: float = READY) -> None:
    deadline = time.monotonic() + limit
    while not holds():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.02)


async def test_container_whose_daemon_and_process_died(engines: Engines, containerd: Path, tmp_path: Path) -> None:
    """What the daemon last wrote says that it runs."""
    with dockerd(engines, containerd, "crash") as docker:
        archive = images.pack(images.docker(images.image(_busybox(), names=["b:1"])))
        docker("load", stdin=archive)
        docker("run", "-d", "--network", "none", "--name", "box", "b:1", "/busybox", "sleep", "1000")
        store = docker_store("docker", docker.root)
        assert (await store.container("box")).status == "running"
        pid = int(docker.text("inspect", "--format", "{{.State.Pid}}", "box"))
        daemon = int((docker.root.parent / "pid").read_text())
        os.kill(daemon, signal.SIGKILL)
        os.kill(pid, signal.SIGKILL)
        _until(lambda: not os.path.exists(f"/proc/{pid}"))
        assert (await store.container("box")).status == "exited"
        found = _entries(await exports.body(plan_container(await store.container("box"), Options())))
        assert b"busybox" in {record.name for record in found}


def _busybox() -> bytes:
    return layer(file("busybox", Path("/bin/busybox").read_bytes(), mode=0o755), file("owned", b"x", uid=7, gid=8))


async def test_remapped_engine(engines: Engines, containerd: Path, tmp_path: Path) -> None:
    for name in ("subuid", "subgid"):
        with open(engines.home / "over/etc" / name, "a", encoding="ascii") as ranges:
            ranges.write("nobody:777000:65536\n")
    engines.home.chmod(0o711)  # the remapped root has to come through
    made = images.image(_busybox(), names=["b:1"])
    with dockerd(engines, containerd, "remapped", "--userns-remap", "nobody:nogroup") as docker:
        docker("load", stdin=images.pack(images.docker(made)))
        docker("create", "--network", "none", "--name", "box", "b:1", "/busybox", "sh")
        docker("cp", "-", "box:/", stdin=layer(file("copied", b"y", uid=12, gid=34)))
        store = docker_store("docker", docker.root)
        assert not uses_containerd(docker.root)
        await _each_is_right((await store.image("b:1")).layers)
        container = await store.container("box")
        ours = await exports.body(plan_container(container, Options()))
        theirs = docker("export", "box")
        # The engine makes this link as the real root, and then leaves out what its users have no number for.
        mtab = Record(b"etc/mtab", "l", 0o777, (OVERFLOW, OVERFLOW), target=b"/proc/mounts")
        assert sorted(_entries(ours)) == sorted([*_entries(theirs), mtab])
        owners = {record.name: record.owner for record in _entries(ours)}
        assert (owners[b"owned"], owners[b"copied"]) == ((7, 8), (12, 34))
        diff = _entries(await exports.body(plan_diff(container, Options())))
        assert {record.name: record.owner for record in diff}[b"copied"] == (12, 34)


async def test_vfs(engines: Engines, containerd: Path, tmp_path: Path) -> None:
    made = images.image(_busybox(), layer(file("second", b"2"), images.whiteout("owned")), names=["b:1"])
    with dockerd(engines, containerd, "vfs", driver="vfs") as docker:
        docker("load", stdin=images.pack(images.docker(made)))
        docker(
            "run",
            "--network",
            "none",
            "--name",
            "box",
            "b:1",
            "/busybox",
            "sh",
            "-c",
            "/busybox rm /second; echo > /new",
        )
        store = docker_store("docker", docker.root)
        image = await store.image("b:1")
        await _each_is_right(image.layers)
        container = await store.container("box")
        theirs = docker("export", "box")
        assert sorted(_entries(await exports.body(plan_container(container, Options())))) == sorted(_entries(theirs))
        diff = await exports.body(plan_diff(container, Options()))
        assert {record.name for record in _entries(diff)} == {b".wh.second", b"new"}
        docker("rm", "box")
        assert container.guard is not None
        with pytest.raises(SourceChanged):
            container.guard()


async def test_removal_while_a_layer_is_read(engine: Command, store: Store) -> None:
    """Many files in a layer, removed in the middle of its assembly: it never ends well."""
    data = layer(*(file(f"f{number}", b"x" * 3000) for number in range(2000)))
    identity = engine("import", "-", stdin=data).decode().strip()
    found = (await store.image(identity)).layers[0]
    assert found.assemble is not None
    assert found.guard is not None
    chunks = found.assemble()
    next(chunks)
    engine("rmi", identity)
    with pytest.raises(SourceChanged):
        list(chunks)
        found.guard()
    with pytest.raises(SourceChanged):
        found.guard()


async def test_while_the_engine_removes_and_makes_anew(engine: Command, store: Store) -> None:
    """Whatever is exported meanwhile is whole or broken, and nothing is ever told to be damaged."""
    made = [
        images.image(layer(*(file(f"f{n}", os.urandom(3000)) for n in range(200))), layer(file("x", bytes([number]))))
        for number in range(2)
    ]

    def churn() -> None:
        for each in made * 3:
            engine("load", stdin=images.pack(images.docker(each)))
            engine("create", "--network", "none", "--name", "churned", each.id, "/none")
            engine("rm", "-f", "churned")
            engine("rmi", "-f", each.id)

    good = 0
    working = Thread(target=churn)
    working.start()
    try:
        while working.is_alive():
            listings = [await store.images(), await store.layers(), await store.containers()]
            for each in [each for listing in listings for each in listing.damaged]:
                assert isinstance(each.error, NotFound)
            for found in listings[1]:
                try:
                    data = await exports.body(plan_layer(found, Options()))
                except SourceChanged:
                    continue
                assert images.sha256(data) == found.diff_id
                good += 1
            for container in listings[2]:
                try:
                    data = await exports.body(plan_container(container, Options()))
                except SourceChanged:
                    continue
                if container.name == "churned":
                    names = {record.name for record in archives.entries(data)}
                    assert {b"x", b"f0", b"f199"} <= names
    finally:
        working.join()
    assert good
