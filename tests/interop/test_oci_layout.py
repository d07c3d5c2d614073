"""Layouts that engines write are read byte for byte; saved with their original blobs, every engine takes them back."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support import docker_cp, exports, images, trees
from support.archives import unpacked
from support.engines import Command
from support.everything import KINDS
from support.images import OCI_LAYER
from support.layouts import DOCKER_CONFIG, DOCKER_LAYER, DOCKER_MANIFEST, IMAGE_NAME, Layout
from support.samples import ONE, TWO
from support.samples import images as samples
from support.trees import Dir, File, Remove
from support.views import Viewer

from streamer.export.image import plan_images
from streamer.export.layer import plan_layer
from streamer.export.plan import Options
from streamer.stores.catalog import Catalog
from streamer.stores.oci_layout.store import oci_layout

pytestmark = [pytest.mark.engine, pytest.mark.root]


# Layouts that engines write: a directory, and the names that are in it


def _skopeo(options: list[str], request: pytest.FixtureRequest, place: Path) -> tuple[Path, list[str]]:
    """Two images, the first under two tags."""
    skopeo: Command = request.getfixturevalue("skopeo")
    source = place / "source.tar"
    source.write_bytes(images.pack(images.docker(*samples())))
    for name, tag in ((ONE, "one"), (ONE, "again"), (TWO, "two")):
        skopeo("copy", *options, f"docker-archive:{source}:{name}", f"oci:{place / 'made'}:{tag}")
    return place / "made", ["made:again", "made:one", "made:two"]


def _umoci(request: pytest.FixtureRequest, place: Path) -> tuple[Path, list[str]]:
    umoci: Command = request.getfixturevalue("umoci")
    layout, bundle = place / "made", place / "bundle"
    umoci("init", "--layout", layout)
    umoci("new", "--image", f"{layout}:first")
    for number, items in enumerate(((*KINDS, Remove("run/socket")), (Remove("z"), Dir("new", File("file", b"new"))))):
        umoci("unpack", "--image", f"{layout}:first", bundle)
        trees.make(bundle / "rootfs", *items)
        umoci("repack", "--image", f"{layout}:{'first' if not number else 'second'}", bundle)
        trees.erase(bundle)
    umoci("tag", "--image", f"{layout}:second", "third")
    umoci("gc", "--layout", layout)
    return layout, ["made:first", "made:second", "made:third"]


def _buildah(request: pytest.FixtureRequest, place: Path) -> tuple[Path, list[str]]:
    buildah: Command = request.getfixturevalue("buildah")
    trees.make(place / "tree", *KINDS)
    (place / "tree.tar").write_bytes(docker_cp.golden(place / "tree"))
    container = buildah.text("from", "scratch")
    buildah("add", "-q", container, place / "tree.tar", "/")
    buildah("commit", "-q", container, "pushed")
    buildah("push", "-q", "pushed", f"oci:{place / 'made'}:1")
    buildah("rm", container)
    buildah("rmi", "pushed")
    return place / "made", ["made:1"]


def _podman(request: pytest.FixtureRequest, place: Path) -> tuple[Path, list[str]]:
    podman: Command = request.getfixturevalue("podman")
    (place / "source.tar").write_bytes(images.pack(images.both(samples()[1])))
    podman("load", "-q", "-i", place / "source.tar")
    podman("save", "-q", "--format", "oci-dir", "-o", place / "made", TWO)
    podman("rmi", "-f", TWO)
    return place / "made", [TWO]


def _ctr(request: pytest.FixtureRequest, place: Path) -> tuple[Path, list[str]]:
    ctr: Command = request.getfixturevalue("ctr")
    one, two = samples()
    one.compression = two.compression = "gzip"
    (place / "source.tar").write_bytes(images.pack(images.oci(one, two)))
    ctr("images", "import", place / "source.tar")
    ctr("images", "export", place / "a.tar", ONE, TWO)
    listed = [line.split()[0] for line in ctr.text("images", "list").splitlines()[1:]]
    ctr("images", "remove", "--sync", *listed)
    return unpacked(place / "a.tar", place / "made"), [ONE, TWO]


MAKERS: dict[str, Callable[[pytest.FixtureRequest, Path], tuple[Path, list[str]]]] = {
    "skopeo": partial(_skopeo, []),
    "skopeo zstd": partial(_skopeo, ["--dest-compress", "--dest-compress-format", "zstd"]),
    "umoci": _umoci,
    "buildah": _buildah,
    "podman": _podman,
    "ctr": _ctr,
}


@pytest.mark.parametrize("maker", MAKERS)
async def test_layouts_that_engines_write(maker: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    directory, names = MAKERS[maker](request, tmp_path)
    store = oci_layout("s", directory)
    listed = await store.images()
    assert listed.damaged == ()
    for name in names:
        assert name in {text for image in listed for each in image.names for text in (each.familiar, each.name)}
    for image in listed:
        assert image.manifest is not None
        for layer in image.layers:
            body = await exports.body(plan_layer(layer, Options()))
            assert "sha256:" + hashlib.sha256(body).hexdigest() == layer.diff_id
            assert layer.size in (None, len(body))


def _layout(place: Path, form: str, compression: str) -> tuple[Layout, list[dict[str, Any]]]:
    """Both samples under all their names, as they would have come from a registry; the entries of the index."""
    layout = Layout(place)
    entries = []
    for made in samples():
        made.compression = compression
        suffix = "" if compression == "none" else f"+{compression}"
        media_type, types = f"{OCI_LAYER}{suffix}", {}
        if form == "docker":
            media_type = DOCKER_LAYER + suffix.replace("+", ".")
            types = {"media_type": DOCKER_MANIFEST, "config_type": DOCKER_CONFIG}
        parts = [{**part, "mediaType": media_type} for part in layout.layers(made)]
        entry = layout.image(made, layers=parts, **types)
        entries += [{**entry, "annotations": {IMAGE_NAME: name}} for name in made.names]
    layout.index(*entries)
    return layout, entries


async def _saved(layout: Layout, path: Path) -> Path:
    names = [name for made in samples() for name in made.names]
    plan = await plan_images(Catalog({"s": oci_layout("s", layout.root)}), names, Options())
    path.write_bytes(await exports.body(plan))
    assert plan.length == path.stat().st_size
    return path


# What each engine takes, seen with docker 20.10, podman 4.3, skopeo 1.9, containerd 1.6, umoci 0.4 as Debian 12 has
# them: docker has no zstd before 23, umoci none at all (and it shows here what skopeo copied); skopeo and umoci find
# no image in an index whose manifests are of Docker's type, skopeo reads the archive as docker-archive then.
TAKEN = [
    *(("docker", "oci", compression) for compression in ("none", "gzip")),
    *(("podman", "oci", compression) for compression in ("none", "gzip", "zstd")),
    *(("ctr", "oci", compression) for compression in ("none", "gzip", "zstd")),
    *(("skopeo-docker", "oci", compression) for compression in ("gzip", "zstd")),
    ("skopeo-oci", "oci", "gzip"),
    ("umoci", "oci", "gzip"),
    *((engine, "docker", "gzip") for engine in ("docker", "podman", "ctr", "skopeo-docker")),
]


@pytest.mark.parametrize(("engine", "form", "compression"), TAKEN)
async def test_engines_take_original_blobs(
    engine: str, form: str, compression: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    layout, _ = _layout(tmp_path / "made", form, compression)
    archive = await _saved(layout, tmp_path / "a.tar")
    one, _ = samples()
    with Viewer(engine, request, tmp_path).of(archive, ONE) as view:
        assert view.id == one.id
        assert (view.tree / "opt/which").read_bytes() == b"one"
        if engine in ("docker", "podman", "ctr"):
            assert view.names == set(one.names)


@pytest.mark.parametrize("form", ["oci", "docker"])
async def test_an_image_keeps_its_digest(form: str, ctr: Command, tmp_path: Path) -> None:
    """What a registry calls it: engines that keep manifests have the very one again."""
    layout, entries = _layout(tmp_path / "made", form, "gzip")
    ctr("images", "import", await _saved(layout, tmp_path / "a.tar"))
    lines = [line.split() for line in ctr.text("images", "list").splitlines()[1:]]
    ctr("images", "remove", "--sync", *(line[0] for line in lines))
    assert {line[0]: line[2] for line in lines} == {
        entry["annotations"][IMAGE_NAME]: entry["digest"] for entry in entries
    }
