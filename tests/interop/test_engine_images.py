"""Images saved from an engine's own store load into every engine with the same ID; a damaged one hides no other."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import pytest
from support import boxes, commandline, exports, images
from support.archives import entries, same_tree, unpacked
from support.asking import ask
from support.boxes import Engine
from support.engines import Command
from support.images import file, layer
from support.serving import served
from support.views import Viewer
from support.workloads import STEP

from streamer.export.container import plan_rootfs
from streamer.export.image import Format, plan_images
from streamer.export.plan import Options
from streamer.stores.base import Store
from streamer.stores.catalog import Catalog
from streamer.stores.docker.store import docker_store
from streamer.stores.oci_layout.store import oci_layout

pytestmark = [pytest.mark.engine, pytest.mark.root]

NAME = "docker.io/work/saved:1"


@dataclass
class Saved:
    """What streamer gave of an image that an engine made, and that the engine has no more."""

    id: str
    archives: dict[Format, Path]
    tree: Path


def in_docker(request: pytest.FixtureRequest, place: Path) -> tuple[AbstractAsyncContextManager[Store], str]:
    engine = _committed("docker", request)
    return engine.store(), engine.command.json("image", "inspect", NAME)[0]["Id"]


def in_podman(request: pytest.FixtureRequest, place: Path) -> tuple[AbstractAsyncContextManager[Store], str]:
    engine = _committed("podman", request)
    return engine.store(), f"sha256:{engine.command.json('image', 'inspect', NAME)[0]['Id']}"


def in_containerd(request: pytest.FixtureRequest, place: Path) -> tuple[AbstractAsyncContextManager[Store], str]:
    """As it was pulled: its blobs are gzip."""
    engine = boxes.engine("ctr", request)
    made = images.image(engine.archive.read_bytes(), STEP, layer(file("saved")), names=[NAME], compression="gzip")
    engine.command("images", "import", "-", stdin=images.pack(images.both(made)))
    return engine.store(), made.id


def in_a_layout(request: pytest.FixtureRequest, place: Path) -> tuple[AbstractAsyncContextManager[Store], str]:
    """As skopeo writes it, its blobs gzip."""
    skopeo: Command = request.getfixturevalue("skopeo")
    made = images.image(boxes.engine("ctr", request).archive.read_bytes(), STEP, layer(file("laid out")), names=[NAME])
    (place / "made.tar").write_bytes(images.pack(images.docker(made)))
    skopeo("copy", f"docker-archive:{place}/made.tar", f"oci:{place}/layout:{NAME}")
    config = skopeo("inspect", "--config", "--raw", f"oci:{place}/layout:{NAME}")
    return nullcontext(oci_layout("layout", place / "layout")), images.sha256(config)


def _committed(name: str, request: pytest.FixtureRequest) -> Engine:
    """An engine with an image of layers that were imported, built and committed."""
    engine = boxes.engine(name, request)
    with engine.box(engine.built) as box:
        box.change()
        engine.command("commit", box.name, NAME)
    return engine


SOURCES = {"docker": in_docker, "podman": in_podman, "containerd": in_containerd, "layout": in_a_layout}
REMOVE = {
    "docker": ("docker", "rmi", NAME),
    "podman": ("podman", "rmi", NAME),
    "containerd": ("ctr", "images", "rm", "--sync", NAME),
}


@pytest.fixture(scope="module", params=SOURCES)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    place = tmp_path_factory.mktemp(request.param)
    store, identity = SOURCES[request.param](request, place)
    made = asyncio.run(_saved(store, identity, place))
    if request.param in REMOVE:
        engine, *command = REMOVE[request.param]
        boxes.engine(engine, request).command(*command)
    return made


async def _saved(source: AbstractAsyncContextManager[Store], identity: str, place: Path) -> Saved:
    archives = {}
    async with source as store:
        image = await store.image(NAME)
        assert image.id == identity
        for format in Format:
            plan = await plan_images(Catalog({store.name: store}), [NAME], Options(), format)
            data = await exports.body(plan)
            assert plan.size in (None, len(data))
            archives[format] = place / f"{format}.tar"
            archives[format].write_bytes(data)
        if image.layers[-1].hold is None and image.layers[-1].snapshot is None:
            tree = place / "tree"
            tree.mkdir()
        else:
            tree = unpacked(await exports.body(plan_rootfs(image, NAME, Options())), place / "tree")
    return Saved(identity, archives, tree)


TAKEN = [
    *((by, Format.OCI) for by in ("docker", "podman", "ctr", "skopeo-oci", "skopeo-docker", "umoci")),
    ("docker", Format.DOCKER_LEGACY),
]


@pytest.mark.parametrize(("by", "format"), TAKEN)
def test_saved_images_load_everywhere(
    by: str, format: Format, saved: Saved, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    with Viewer(by, request, tmp_path).of(saved.archives[format], NAME) as view:
        assert view.id == saved.id
        assert NAME in view.names
        if any(saved.tree.iterdir()):  # a layout is not unpacked: there is nothing to compare with
            same_tree(view.tree, saved.tree, seconds=True, without=view.without, untimed=view.untimed)


# Damage, as a client sees it

GOOD, CUT, GONE = (
    images.image(layer(file("a", name.encode() * 1000)), layer(file("b", name.encode())), names=[f"damage/{name}:1"])
    for name in ("good", "cut", "gone")
)


@pytest.fixture(scope="module")
def root(docker: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of docker's directory in which one image's configuration is cut off and another's layer is gone."""
    docker("load", "-q", stdin=images.pack(images.docker(GOOD, CUT, GONE)))
    copy = tmp_path_factory.mktemp("damaged") / "root"
    copy.mkdir()
    subprocess.run(
        ["cp", "-a", *(docker.root / name for name in ("image", "overlay2", "containers")), copy], check=True
    )
    docker("rmi", *(made.names[0] for made in (GOOD, CUT, GONE)))
    config = copy / "image/overlay2/imagedb/content/sha256" / images.encoded(CUT.data)
    config.write_bytes(CUT.data[: len(CUT.data) // 2])
    top = images.chain_ids(GONE.diff_ids)[1].removeprefix("sha256:")
    shutil.rmtree(copy / "image/overlay2/layerdb/sha256" / top)
    return copy


async def test_damaged_images_over_http(root: Path) -> None:
    async with served(docker_store("copy", root)) as running:

        async def get(target: str) -> tuple[int, bytes]:
            answer = await asyncio.to_thread(ask, running.port, target)
            return answer.status, answer.body

        status, body = await get("/v1/images")
        assert status == 200
        listed = {one["id"]: one for one in json.loads(body)}
        assert listed[GOOD.id]["names"] == GOOD.names
        for damaged in (CUT, GONE):
            assert listed[damaged.id]["names"] == damaged.names
            assert listed[damaged.id]["error"]["code"] == "store_damaged"
            assert "image/overlay2/" in listed[damaged.id]["error"]["detail"]
            assert str(root) not in listed[damaged.id]["error"]["detail"]
            status, body = await get(f"/v1/images/{damaged.names[0]}/archive")
            assert status >= 500
            assert json.loads(body)["code"] == "store_damaged"
        status, body = await get(f"/v1/images/{GOOD.names[0]}/archive")
        assert status == 200
        assert {f"blobs/sha256/{images.encoded(data)}".encode() for data in GOOD.layers} <= {
            record.name for record in entries(body)
        }
        for diff_id, data in zip(GOOD.diff_ids, GOOD.layers, strict=True):
            assert await get(f"/v1/layers/{diff_id}/archive") == (200, data)
        # What of a damaged image can be given is given.
        assert await get(f"/v1/layers/{GONE.diff_ids[0]}/archive") == (200, GONE.layers[0])


def test_damaged_images_on_the_command_line(root: Path, tmp_path: Path) -> None:
    store = ("--store", f"copy=docker:{root}")
    done = commandline.run("ls", "images", *store)
    assert done.returncode == 0
    assert GOOD.id in done.stdout.decode()
    assert CUT.id not in done.stdout.decode()
    warnings = [line for line in done.stderr.decode().splitlines() if line.startswith("streamer: warning: ")]
    for damaged in (CUT, GONE):
        assert len([line for line in warnings if damaged.names[0] in line and "image/overlay2/" in line]) == 1
    done = commandline.run("export", "image", GOOD.names[0], *store)
    assert done.returncode == 0
    assert done.stderr == b""
    assert {record.name for record in entries(done.stdout)} >= {b"manifest.json", b"index.json"}
    done = commandline.run("export", "image", CUT.names[0], *store)
    assert done.returncode != 0
    assert done.stdout == b""
    assert b"Traceback" not in done.stderr
    assert b"image/overlay2/" in done.stderr
