"""Data-roots that were pulled apart: an error names the file, and everything else goes on working."""

from __future__ import annotations

import errno
import gzip
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support import images
from support.docker_roots import DockerRoot
from support.images import file, layer

from streamer.changeset import descriptor
from streamer.errors import NotFound, NotPermitted, StoreDamaged
from streamer.stores.docker import index as indexes
from streamer.stores.docker.store import docker_store

GOOD = images.image(layer(file("good", b"g")), names=["good:1"])
BROKEN = images.image(layer(file("below", b"b")), layer(file("top", b"t")), names=["broken:1"])
BOTTOM, TOP = images.chain_ids(BROKEN.diff_ids)

Damage = Callable[[DockerRoot], object]


@pytest.fixture
def root(tmp_path: Path) -> DockerRoot:
    root = DockerRoot(tmp_path / "docker").add(GOOD, BROKEN)
    root.container("good", GOOD)
    return root


def _without(path: Path) -> None:
    if path.is_dir():
        path.rename(path.with_name("elsewhere"))
    else:
        path.unlink()


def _half(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def _linked(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


IMAGES: dict[str, tuple[Damage, str]] = {
    "no directory": (lambda root: _without(root.diff(BOTTOM)), r"overlay2/[0-9a-f]{64}/diff is missing"),
    "directory is a link": (lambda root: _linked(root.diff(TOP)), r"overlay2/[0-9a-f]{64}/diff is missing"),
    "no layer": (lambda root: _without(root.layer(BOTTOM)), rf"layerdb/sha256/{BOTTOM[7:]}/diff is missing"),
    "no tar-split": (lambda root: _without(root.layer(TOP) / "tar-split.json.gz"), "tar-split.json.gz is missing"),
    "half a tar-split": (lambda root: _half(root.layer(TOP) / "tar-split.json.gz"), "tar-split.json.gz is damaged"),
    "tar-split of nonsense": (
        lambda root: (root.layer(TOP) / "tar-split.json.gz").write_bytes(gzip.compress(b'{"type":2}\n')),
        f"{TOP[7:]}/tar-split.json.gz is damaged",
    ),
    "no cache-id": (lambda root: _without(root.layer(TOP) / "cache-id"), f"{TOP[7:]}/cache-id is missing"),
    "cache-id outside": (lambda root: (root.layer(TOP) / "cache-id").write_text("../../.."), "cache-id does not hold"),
    "cache-id empty": (lambda root: (root.layer(TOP) / "cache-id").write_text(""), "cache-id does not hold"),
    "cache-id binary": (lambda root: (root.layer(TOP) / "cache-id").write_bytes(b"\xff"), "cache-id holds something"),
    "cache-id huge": (lambda root: (root.layer(TOP) / "cache-id").write_bytes(bytes(9999)), "cache-id is larger"),
    "cache-id waits": (lambda root: _fifo(root.layer(TOP) / "cache-id"), "cache-id is not a regular file"),
    "cache-id is a link": (lambda root: _linked(root.layer(TOP) / "cache-id"), "cache-id is a symbolic link"),
    "tar-split waits": (
        lambda root: _fifo(root.layer(TOP) / "tar-split.json.gz"),
        "tar-split.json.gz is not a regular",
    ),
    "layer behind a link": (lambda root: _linked(root.layer(TOP)), f"{TOP[7:]}/diff is a symbolic link, or"),
    "no parent": (lambda root: _without(root.layer(TOP) / "parent"), f"{TOP[7:]} has another chain ID"),
    "parent is itself": (lambda root: (root.layer(TOP) / "parent").write_text(TOP), f"{TOP[7:]} has another chain ID"),
    "parent is nothing": (
        lambda root: (root.layer(TOP) / "parent").write_text("/etc"),
        "parent does not hold a digest",
    ),
    "another diff": (
        lambda root: (root.layer(TOP) / "diff").write_text("sha256:" + "0" * 64),
        f"{TOP[7:]} has another chain ID",
    ),
    "half a configuration": (lambda root: _half(root.config(BROKEN.id)), f"{BROKEN.id[7:]} is not valid JSON"),
    "another configuration": (
        lambda root: root.config(BROKEN.id).write_bytes(GOOD.data),
        f"{BROKEN.id[7:]} has another digest",
    ),
    "no configuration": (lambda root: _without(root.config(BROKEN.id)), f"sha256/{BROKEN.id[7:]} is missing"),
    "configuration is a list": (lambda root: root.config(BROKEN.id).write_text("[]"), "is not a JSON object"),
}


@pytest.mark.parametrize("name", IMAGES)
async def test_image(root: DockerRoot, name: str) -> None:
    damage, message = IMAGES[name]
    damage(root)
    store = docker_store("d", root.path)
    for reference in ("broken:1", BROKEN.id):
        with pytest.raises(StoreDamaged, match=message) as raised:
            await store.image(reference)
        assert str(root.path) not in str(raised.value)
    listing = await store.images()
    assert [image.id for image in listing] == [GOOD.id]
    assert [(each.id, each.names) for each in listing.damaged] == [(BROKEN.id, ("broken:1",))]
    assert (await store.image("good:1")).layers[0].size is not None
    assert [found.name for found in await store.containers()] == ["good"]
    assert {GOOD.diff_ids[0]} <= {found.diff_id for found in await store.layers()}


@pytest.mark.parametrize("missing", [False, True], ids=["openat2", "no openat2"])
@pytest.mark.parametrize("name", ["image", "image/overlay2", "image/overlay2/layerdb", "image/overlay2/layerdb/sha256"])
async def test_nothing_is_read_behind_a_link(
    root: DockerRoot, name: str, missing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    if missing:
        monkeypatch.setattr(descriptor, "openat2", refuse)
    assert len(await docker_store("d", root.path).images()) == 2
    _linked(root.path / name)
    with pytest.raises(StoreDamaged) as raised:
        await docker_store("d", root.path).image("good:1")
    assert str(root.path) not in str(raised.value)


async def test_a_tar_split_that_became_a_pipe(root: DockerRoot) -> None:
    top = (await docker_store("d", root.path).image("broken:1")).layers[-1]
    _fifo(root.layer(TOP) / "tar-split.json.gz")
    assert top.assemble is not None
    with pytest.raises(StoreDamaged, match=r"tar-split\.json\.gz is not a regular file"):
        list(top.assemble())


async def test_layer_without_anything(root: DockerRoot) -> None:
    (root.layer(TOP) / "diff").unlink()
    listing = await docker_store("d", root.path).layers()
    assert {found.chain_id for found in listing} == {*GOOD.diff_ids, BOTTOM}
    assert [each.id for each in listing.damaged] == [TOP]


async def test_layers_in_a_ring(root: DockerRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    """Digests make it impossible; a bound does so if they do not."""
    monkeypatch.setattr("streamer.stores.docker.layers.MAX_DEPTH", 1)
    with pytest.raises(StoreDamaged, match="more than 1 layers"):
        await docker_store("d", root.path).image("broken:1")


def _mount(root: DockerRoot) -> Path:
    return root.layerdb / "mounts" / images.encoded(b"broken")


def _upper(root: DockerRoot) -> Path:
    return root.overlay / (_mount(root) / "mount-id").read_text()


def _first_link(root: DockerRoot) -> Path:
    return root.overlay / (_upper(root) / "lower").read_text().split(":")[0]


def _relinked(root: DockerRoot, target: str) -> None:
    _first_link(root).unlink()
    _first_link(root).symlink_to(target)


def _config(root: DockerRoot) -> Path:
    return root.path / "containers" / images.encoded(b"broken") / "config.v2.json"


CONTAINERS: dict[str, tuple[Damage, str]] = {
    "half a configuration": (lambda root: _half(_config(root)), r"config\.v2\.json is not valid JSON"),
    "configuration is text": (lambda root: _config(root).write_text('"x"'), r"config\.v2\.json is not a JSON object"),
    "configuration is deep": (lambda root: _config(root).write_text("[" * 100_000), r"config\.v2\.json is not valid"),
    "configuration waits": (lambda root: _fifo(_config(root)), r"config\.v2\.json is not a regular file"),
    "no mount": (lambda root: _without(_mount(root)), "mount-id is missing"),
    "mount outside": (lambda root: (_mount(root) / "mount-id").write_text("../x"), "mount-id does not hold"),
    "init outside": (lambda root: (_mount(root) / "init-id").write_text("/"), "init-id does not hold"),
    "no init": (lambda root: _without(_mount(root) / "init-id"), "lower has other layers"),
    "no parent": (lambda root: _without(_mount(root) / "parent"), "lower has other layers"),
    "another parent": (lambda root: (_mount(root) / "parent").write_text(BOTTOM), "lower has other layers"),
    "no upper": (lambda root: _without(_upper(root) / "diff"), r"overlay2/[0-9a-f]{64}/diff is missing"),
    "no lower": (lambda root: _without(_upper(root) / "lower"), "lower holds something else"),
    "lower outside": (lambda root: (_upper(root) / "lower").write_text("l/../../../etc"), "lower holds something else"),
    "no link": (lambda root: _without(_first_link(root)), r"overlay2/l/[0-9A-F]{26} is missing"),
    "link outside": (lambda root: _relinked(root, "/etc"), r"overlay2/l/[0-9A-F]{26} is not a link to a layer"),
    "link far up": (lambda root: _relinked(root, "../../../x/diff"), r"overlay2/l/[0-9A-F]{26} is not a link"),
    "link is a file": (lambda root: _fifo(_first_link(root)), r"overlay2/l/[0-9A-F]{26} is not a symbolic link"),
    "link elsewhere": (lambda root: _relinked(root, "../other/diff"), "lower has other layers"),
}


@pytest.mark.parametrize("name", CONTAINERS)
async def test_container(root: DockerRoot, name: str) -> None:
    identity = root.container("broken", BROKEN)
    damage, message = CONTAINERS[name]
    damage(root)
    store = docker_store("d", root.path)
    with pytest.raises(StoreDamaged, match=message) as raised:
        await store.container(identity)
    assert str(root.path) not in str(raised.value)
    listing = await store.containers()
    assert [found.name for found in listing] == ["good"]
    assert [each.id for each in listing.damaged] == [identity]
    assert len(await store.images()) == 2


@pytest.mark.parametrize(
    "text", ['{"Repositories": {"good', "[]", '{"Repositories": []}', '{"Repositories": {"good": ["good:1"]}}']
)
async def test_names(root: DockerRoot, text: str) -> None:
    """Without names there are still IDs."""
    root.names.write_text(text)
    store = docker_store("d", root.path)
    with pytest.raises(StoreDamaged, match=r"image/overlay2/repositories\.json"):
        await store.image("good:1")
    for reference in (GOOD.id, GOOD.id[7:], GOOD.id[7:19]):
        assert (await store.image(reference)).id == GOOD.id
    listing = await store.images()
    assert {image.id for image in listing} == {GOOD.id, BROKEN.id}
    assert [each.id for each in listing.damaged] == ["image/overlay2/repositories.json"]


@pytest.mark.parametrize("identity", ['"../../etc"', "7", "null"])
async def test_one_name(root: DockerRoot, identity: str) -> None:
    root.names.write_text(root.names.read_text().replace(f'"{BROKEN.id}"', identity).replace("good:1", "GOOD:1"))
    store = docker_store("d", root.path)
    with pytest.raises(StoreDamaged, match=r"repositories\.json names something"):
        await store.image("broken:1")
    assert {image.id for image in await store.images()} == {GOOD.id, BROKEN.id}


async def test_no_names(root: DockerRoot) -> None:
    root.names.unlink()
    store = docker_store("d", root.path)
    assert len(await store.images()) == 2
    with pytest.raises(NotFound):
        await store.image("good:1")


async def test_odd_types_in_a_container(root: DockerRoot) -> None:
    identity = root.container("broken", BROKEN)
    root.write_config(identity, Name=7, Image=[], Created={}, Config="x", State=[], Driver=None)
    found = await docker_store("d", root.path).container(identity)
    assert (found.name, found.image, found.image_name, found.created) == (identity[:12], "", "", "")


# Between the reading of the store and the making of a record


@pytest.fixture
def afterwards(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """What happens as soon as the store is read."""

    def register(happens: Callable[[], object]) -> None:
        init = indexes.DockerIndex.__init__

        def read(self: indexes.DockerIndex, *arguments: object) -> None:
            init(self, *arguments)  # type: ignore[arg-type]
            happens()

        monkeypatch.setattr(indexes.DockerIndex, "__init__", read)

    return register


async def test_image_removed_meanwhile(root: DockerRoot, afterwards: Callable[[Callable[[], object]], None]) -> None:
    afterwards(lambda: (_without(root.config(BROKEN.id)), _without(root.layer(TOP))))
    with pytest.raises(NotFound, match="was removed"):
        await docker_store("d", root.path).image("broken:1")


async def test_layer_removed_meanwhile(root: DockerRoot, afterwards: Callable[[Callable[[], object]], None]) -> None:
    afterwards(lambda: _without(root.layer(TOP)))
    with pytest.raises(NotFound, match="was removed"):
        await docker_store("d", root.path).layer(TOP)


async def test_container_removed_meanwhile(
    root: DockerRoot, afterwards: Callable[[Callable[[], object]], None]
) -> None:
    identity = root.container("broken", BROKEN)
    afterwards(lambda: (root.write_config(identity, State={"Dead": True}), _without(_mount(root))))
    with pytest.raises(NotFound, match="was removed"):
        await docker_store("d", root.path).container("broken")


async def test_image_removed_while_names_are_read(root: DockerRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name was read, then name and image went: nothing is damaged."""
    listed = indexes.DockerIndex._listed

    def later(self: indexes.DockerIndex) -> set[str]:
        root.names.write_text(json.dumps({"Repositories": {"good": {"good:1": GOOD.id}}}))
        root.config(BROKEN.id).unlink(missing_ok=True)
        return listed(self)

    monkeypatch.setattr(indexes.DockerIndex, "_listed", later)
    store = docker_store("d", root.path)
    listing = await store.images()
    assert [image.id for image in listing] == [GOOD.id]
    assert listing.damaged == ()
    with pytest.raises(NotFound):
        await store.image("broken:1")


# Permissions


@contextmanager
def _somebody() -> Iterator[None]:
    """As a user who may do nothing special; for all threads of this process."""
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def open_root() -> Iterator[DockerRoot]:
    """Somewhere everybody may go, owned by everybody's nobody so far as it is not closed."""
    with tempfile.TemporaryDirectory(dir="/tmp") as place:
        os.chmod(place, 0o755)
        yield DockerRoot(Path(place) / "docker").add(GOOD, BROKEN)


CLOSED: dict[str, tuple[Callable[[DockerRoot], Path], str]] = {
    "configuration": (lambda root: root.config(BROKEN.id), "imagedb/content"),
    "layer": (lambda root: root.layer(TOP), "layerdb/sha256"),
    "tar-split": (lambda root: root.layer(TOP) / "tar-split.json.gz", r"tar-split\.json\.gz"),
    "cache-id": (lambda root: root.layer(BOTTOM) / "cache-id", "cache-id"),
    "directory": (lambda root: root.diff(TOP).parent, "overlay2/"),
}


@pytest.mark.root
@pytest.mark.parametrize("name", CLOSED)
async def test_not_permitted(open_root: DockerRoot, name: str) -> None:
    where, message = CLOSED[name]
    os.chmod(where(open_root), 0)
    store = docker_store("d", open_root.path)
    with _somebody():
        with pytest.raises(NotPermitted, match=message) as raised:
            await store.image("broken:1")
        listing = await store.images()
    assert str(open_root.path) not in str(raised.value)
    assert [image.id for image in listing] == [GOOD.id]


@pytest.mark.root
@pytest.mark.parametrize("below", [".", "image/overlay2", "image/overlay2/imagedb/content/sha256"])
async def test_root_not_permitted(open_root: DockerRoot, below: str) -> None:
    os.chmod(open_root.path / below, 0)
    with _somebody(), pytest.raises(NotPermitted, match="run streamer as"):
        await docker_store("d", open_root.path).images()


@pytest.mark.root
async def test_container_and_file_not_permitted(open_root: DockerRoot) -> None:
    identity = open_root.container("broken", BROKEN)
    os.chmod(open_root.path / "containers" / identity, 0)
    os.chmod(open_root.diff(BOTTOM) / "below", 0)
    store = docker_store("d", open_root.path)
    with _somebody():
        with pytest.raises(NotPermitted, match=r"config\.v2\.json"):
            await store.container(identity)
        found = (await store.image("broken:1")).layers[0]
        assert found.assemble is not None
        with pytest.raises(NotPermitted, match=r"^below of layer .* of store d may not be read: "):
            list(found.assemble())
