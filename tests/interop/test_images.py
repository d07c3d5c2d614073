"""Saved images are taken by every engine, which sees what went in; and what engines save is taken in as it is."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support import docker_cp, exports, images, trees
from support.archives import same_tree, unpacked
from support.engines import Command, Engines
from support.everything import EVERYTHING, KINDS
from support.samples import ONE, ONE_ELSEWHERE, ONE_TOO, TWO
from support.samples import images as samples
from support.trees import Dir, File, Link, Remove
from support.views import INIT, INIT_PARENTS, Viewer

from streamer.export.container import plan_rootfs
from streamer.export.image import Format, plan_images
from streamer.export.layer import plan_layer
from streamer.export.plan import Options
from streamer.stores.catalog import Catalog
from streamer.stores.local.store import LocalStore
from streamer.tar.compression import Compression

pytestmark = [pytest.mark.engine, pytest.mark.root]

COMPRESSIONS = (Compression.NONE, Compression.GZIP, Compression.ZSTD)
NAMES = [ONE, ONE_ELSEWHERE, ONE_TOO, TWO]


@dataclass
class Saved:
    """What the embedded store gave for the two samples: archives by format and compression, trees by name."""

    archives: dict[tuple[Format, Compression], Path] = field(default_factory=dict)
    trees: dict[str, Path] = field(default_factory=dict)
    ids: dict[str, str] = field(default_factory=dict)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    return asyncio.run(_saved(tmp_path_factory.mktemp("saved")))


async def _saved(place: Path) -> Saved:
    made = Saved()
    async with LocalStore.open(place / "state") as store:
        await store.import_archive(images.Bytes(images.pack(images.docker(*samples()))))
        for format, compression in itertools.product(Format, COMPRESSIONS):
            plan = await plan_images(Catalog({"local": store}), NAMES, Options(compression=compression), format)
            path = place / f"{format}{compression.suffix}.tar"
            path.write_bytes(await exports.body(plan))
            made.archives[format, compression] = path
        for name in (ONE, TWO):
            image = await store.image(name)
            made.ids[name] = image.id
            rootfs = await exports.body(plan_rootfs(image, name, Options()))
            made.trees[name] = unpacked(rootfs, place / name.replace("/", "-"))
    return made


def test_ids_are_those_that_came_in(saved: Saved) -> None:
    one, two = samples()
    assert saved.ids == {ONE: one.id, TWO: two.id}


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd", "xz", "bzip2"])
@pytest.mark.parametrize("form", [images.docker, images.oci, images.both], ids=lambda form: form.__name__)
async def test_the_form_that_came_in_makes_no_difference(
    form: object, compression: str, saved: Saved, tmp_path: Path
) -> None:
    """Every form of archive, its blobs and itself compressed in every way, is saved as the same bytes."""
    one, two = samples()
    if form is not images.oci or compression in ("gzip", "zstd"):
        one.compression = two.compression = compression
    async with LocalStore.open(tmp_path) as store:
        await store.import_archive(images.Bytes(images.pack(form(one, two), compression=compression)))  # type: ignore[operator]
        again = await exports.body(await plan_images(Catalog({"local": store}), NAMES, Options()))
        assert again == saved.archives[Format.OCI, Compression.NONE].read_bytes()
        for image, made in ((await store.image(ONE), one), (await store.image(TWO), two)):
            for layer, original in zip(image.layers, made.layers, strict=True):
                assert await exports.body(plan_layer(layer, Options())) == original


# What each engine takes, seen with docker 20.10, podman 4.3, skopeo 1.9, containerd 1.6 as Debian 12 has them: docker
# load has no zstd, ctr takes no compressed archive at all, and the library of podman and skopeo takes a zstd one but
# fails on every gzip one, whoever made it.
OCI = Format.OCI
NONE, GZIP, ZSTD = COMPRESSIONS
TAKEN = [
    *(("docker", format, compression) for format in Format for compression in (NONE, GZIP)),
    *(("podman", format, compression) for format in Format for compression in (NONE, ZSTD)),
    *(("ctr", format, NONE) for format in Format),
    *(("skopeo-oci", OCI, compression) for compression in COMPRESSIONS),
    *(("skopeo-docker", format, compression) for format in Format for compression in (NONE, ZSTD)),
    ("umoci", OCI, NONE),
]


@pytest.mark.parametrize(("engine", "format", "compression"), TAKEN)
def test_engines_take_what_is_saved(
    engine: str,
    format: Format,
    compression: Compression,
    saved: Saved,
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    for name in (ONE, TWO):
        (tmp_path / saved.ids[name][7:19]).mkdir()
        with Viewer(engine, request, tmp_path / saved.ids[name][7:19]).of(
            saved.archives[format, compression], name
        ) as view:
            assert view.id == saved.ids[name]
            same_tree(view.tree, saved.trees[name], seconds=True, without=view.without, untimed=view.untimed)
            if engine in ("docker", "podman", "ctr"):
                assert view.names == ({ONE, ONE_ELSEWHERE, ONE_TOO} if name == ONE else {TWO})


@dataclass
class Made:
    """One archive that an engine wrote, and what the engine says of the image in it; `tree` is what it sees there."""

    archive: Path
    id: str
    diff_ids: list[str]
    tree: Path | None = None
    without: tuple[bytes, ...] = ()
    untimed: tuple[bytes, ...] = ()


def _docker_save(request: pytest.FixtureRequest, place: Path) -> Made:
    """A layer imported, and one committed: both written by dockerd itself."""
    docker: Command = request.getfixturevalue("docker")
    docker("import", "--change", "CMD /bin/sh", _tree(place, *EVERYTHING, Dir("etc")), "base:1")
    container = docker.text("create", "base:1")
    (place / "added").write_text("added")
    docker("cp", place / "added", f"{container}:/added")
    docker("cp", place / "added", f"{container}:/large")
    docker("commit", container, "made:1")
    docker("rm", container)
    docker("save", "-o", place / "a.tar", "made:1")
    found = docker.json("image", "inspect", "made:1")[0]
    container = docker.text("create", "made:1")
    seen = unpacked(docker("export", container), place / "seen")
    docker("rm", container)
    docker("rmi", "-f", "made:1", "base:1")
    return Made(place / "a.tar", found["Id"], found["RootFS"]["Layers"], seen, INIT, (*INIT_PARENTS, *BEFORE_EPOCH))


def _podman_save(form: str, request: pytest.FixtureRequest, place: Path) -> Made:
    """A layer imported by podman, and one committed: files added, changed, replaced and removed."""
    podman: Command = request.getfixturevalue("podman")
    engines: Engines = request.getfixturevalue("engines")
    podman("import", _tree(place, *EVERYTHING), "localhost/base:1")
    container = podman.text("create", "--network", "none", "localhost/base:1", "/none")
    root = engines.inside(podman.text("mount", container))
    trees.make(root, *CHANGES, *REPLACED)
    trees.copy(root, trees.make(place / "seen"))
    podman("commit", "-q", container, "localhost/made:1")
    podman("rm", "-f", container)
    podman("save", "--format", form, "-o", place / "a.tar", "localhost/made:1")
    found = podman.json("image", "inspect", "localhost/made:1")[0]
    podman("rmi", "-f", "localhost/made:1", "localhost/base:1")
    return Made(
        place / "a.tar", f"sha256:{found['Id']}", found["RootFS"]["Layers"], place / "seen", untimed=BEFORE_EPOCH
    )


def _buildah_push(request: pytest.FixtureRequest, place: Path) -> Made:
    buildah: Command = request.getfixturevalue("buildah")
    container = buildah.text("from", "scratch")
    buildah("add", "-q", container, _tree(place, *KINDS), "/")
    layout = place / "layout"
    buildah("commit", "-q", container, f"oci:{layout}:made")
    buildah("rm", container)
    return _of_layout(layout)


def _skopeo_copy(request: pytest.FixtureRequest, place: Path) -> Made:
    """A layout with gzip layers, from what streamer itself saved."""
    skopeo: Command = request.getfixturevalue("skopeo")
    saved: Saved = request.getfixturevalue("saved")
    source = saved.archives[Format.OCI, Compression.NONE]
    layout = place / "layout"
    skopeo("copy", "--dest-compress", "--dest-compress-format", "gzip", f"oci-archive:{source}:b", f"oci:{layout}:made")
    return _of_layout(layout)


def _umoci_repack(request: pytest.FixtureRequest, place: Path) -> Made:
    umoci: Command = request.getfixturevalue("umoci")
    layout, bundle = place / "layout", place / "bundle"
    umoci("init", "--layout", layout)
    umoci("new", "--image", f"{layout}:made")
    for items in ((*KINDS, Remove("run/socket")), CHANGES):
        umoci("unpack", "--image", f"{layout}:made", bundle)
        trees.make(bundle / "rootfs", *items)
        umoci("repack", "--image", f"{layout}:made", bundle)
        trees.erase(bundle)
    umoci("gc", "--layout", layout)
    umoci("unpack", "--image", f"{layout}:made", bundle)
    return replace(_of_layout(layout), tree=bundle / "rootfs")


def _ctr_export(request: pytest.FixtureRequest, place: Path) -> Made:
    ctr: Command = request.getfixturevalue("ctr")
    saved: Saved = request.getfixturevalue("saved")
    ctr("images", "import", saved.archives[Format.OCI, Compression.NONE])
    ctr("images", "export", place / "a.tar", ONE)
    ctr("images", "remove", "--sync", *NAMES)
    one, _ = samples()
    return Made(place / "a.tar", one.id, one.diff_ids)


def _of_layout(layout: Path) -> Made:
    """The only image of a layout, told from its blobs."""

    def blob(digest: str) -> dict[str, Any]:
        value: dict[str, Any] = json.loads((layout / "blobs/sha256" / digest.removeprefix("sha256:")).read_bytes())
        return value

    (entry,) = json.loads((layout / "index.json").read_bytes())["manifests"]
    identity = blob(entry["digest"])["config"]["digest"]
    return Made(layout, identity, blob(identity)["rootfs"]["diff_ids"])


def _tree(place: Path, *items: object) -> Path:
    """A tar of these files as the docker command packs it."""
    trees.make(place / "tree", *items)
    (place / "tree.tar").write_bytes(docker_cp.golden(place / "tree"))
    return place / "tree.tar"


CHANGES = (
    File("large", b"changed"),
    Dir("new", File("file", b"new"), Link("linked", "new/file")),
    Remove("z"),
    Remove("a-empty"),
    Remove("block"),
    Dir("block", File("a-file-before")),
)
# umoci 0.4 then writes whiteouts below a file, which docker and containerd refuse as well.
REPLACED = (Remove("tmp"), File("tmp", b"a directory before"))
BEFORE_EPOCH = (b"time3", b"time4")
"""The engines' own unpacking gives them time 0."""
MAKERS: dict[str, Callable[[pytest.FixtureRequest, Path], Made]] = {
    "docker save": _docker_save,
    "podman save docker-archive": partial(_podman_save, "docker-archive"),
    "podman save oci-archive": partial(_podman_save, "oci-archive"),
    "buildah": _buildah_push,
    "skopeo": _skopeo_copy,
    "umoci": _umoci_repack,
    "ctr images export": _ctr_export,
}


@pytest.mark.parametrize("maker", MAKERS)
async def test_what_engines_make_is_taken_in_as_it_is(
    maker: str, saved: Saved, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    (tmp_path / "made").mkdir()
    made = MAKERS[maker](request, tmp_path / "made")
    async with LocalStore.open(tmp_path / "state") as store:
        report = await store.import_archive(made.archive, name="taken:1")
        (image,) = report.images
        assert image.id == made.id
        assert [layer.diff_id for layer in image.layers] == made.diff_ids
        for layer in image.layers:
            again = await exports.body(plan_layer(layer, Options()))
            assert "sha256:" + hashlib.sha256(again).hexdigest() == layer.diff_id
            assert len(again) == layer.size
        if made.tree is not None:
            rootfs = unpacked(await exports.body(plan_rootfs(image, "taken:1", Options())), tmp_path / "rootfs")
            same_tree(rootfs, made.tree, seconds=True, without=made.without, untimed=made.untimed)
