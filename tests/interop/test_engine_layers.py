"""Every layer of every image that engines make is streamed byte for byte: digest and length are those declared."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest
from support import boxes, exports, images
from support.boxes import LIMITS, Containerd, Docker, Engine, Podman
from support.samples import ONE, TWO
from support.samples import images as samples

from streamer.export.layer import plan_layer
from streamer.export.plan import Options
from streamer.stores.base import Store

pytestmark = [pytest.mark.engine, pytest.mark.root]


@dataclass
class Made:
    """An image, and what its engine says of it."""

    store: AbstractAsyncContextManager[Store]
    id: str
    diff_ids: list[str]
    compressed: bool = False
    """Kept as they came: nobody knows how long their tars are."""


Maker = Callable[[pytest.FixtureRequest, Path], Made]


def docker_built(request: pytest.FixtureRequest, _: Path) -> Made:
    engine = boxes.engine("docker", request)
    return _in_docker(engine, engine.built)


def docker_built_by_buildkit(request: pytest.FixtureRequest, _: Path) -> Made:
    engine = boxes.engine("docker", request)
    assert isinstance(engine, Docker)
    build = engine.engines.command(_with_buildkit(), *engine.options, DOCKER_BUILDKIT="1")
    build("build", "-q", "--network", "none", "-t", "work/buildkit:1", engine.context(engine.base))
    return _in_docker(engine, "work/buildkit:1")


def docker_committed(request: pytest.FixtureRequest, _: Path) -> Made:
    engine = boxes.engine("docker", request)
    with engine.box(engine.built) as box:
        box.change()
        engine.command("commit", box.name, "work/committed:1")
    return _in_docker(engine, "work/committed:1")


def docker_loaded(form: Callable[..., images.Files], compression: str, name: str) -> Maker:
    def make(request: pytest.FixtureRequest, place: Path) -> Made:
        engine = boxes.engine("docker", request)
        engine.command("load", "-q", stdin=_archive(form, compression))
        return _in_docker(engine, name)

    return make


def podman_built(request: pytest.FixtureRequest, _: Path) -> Made:
    engine = boxes.engine("podman", request)
    return _in_storage(engine, engine.built)


def podman_committed(request: pytest.FixtureRequest, _: Path) -> Made:
    engine = boxes.engine("podman", request)
    with engine.box(engine.built) as box:
        box.change()
        engine.command("commit", "-q", box.name, "localhost/work/committed:1")
    return _in_storage(engine, "localhost/work/committed:1")


def podman_loaded(form: Callable[..., images.Files], compression: str, name: str) -> Maker:
    def make(request: pytest.FixtureRequest, place: Path) -> Made:
        engine = boxes.engine("podman", request)
        engine.command("load", "-q", stdin=_archive(form, compression))
        return _in_storage(engine, name)

    return make


def buildah_built(request: pytest.FixtureRequest, place: Path) -> Made:
    """Several layers, in the store that podman has as well."""
    engine = boxes.engine("podman", request)
    assert isinstance(engine, Podman)
    options = ("--root", engine.command.root, "--runroot", engine.command.root.parent / "run")
    buildah = engine.engines.command("buildah", *options, "--storage-driver", "overlay")
    made = buildah.text("from", "scratch")
    buildah("add", "-q", made, engine.archive, "/")
    buildah("commit", "-q", made, "work/one-layer:1")
    buildah("rm", made)
    made = buildah.text("from", "--pull-never", "localhost/work/one-layer:1")
    buildah("run", *engine.runtime, *LIMITS[:2], made, "rm", "-r", "/everything")
    buildah("copy", "-q", made, engine.context(engine.base), "/copied")
    buildah("commit", "-q", made, "work/two-layers:1")
    buildah("rm", made)
    return _in_storage(engine, "localhost/work/two-layers:1")


def containerd_imported(compression: str) -> Maker:
    def make(request: pytest.FixtureRequest, place: Path) -> Made:
        engine = boxes.engine("ctr", request)
        one, _ = samples()
        one.names, one.compression = [f"docker.io/work/{compression}:1"], compression
        one.config["author"] = compression  # else containerd has one image in two compressions
        engine.command("images", "import", "-", stdin=images.pack(images.both(one)))
        return Made(engine.store(), one.id, one.diff_ids, compression != "none")

    return make


def containerd_tree(request: pytest.FixtureRequest, place: Path) -> Made:
    engine = boxes.engine("ctr", request)
    assert isinstance(engine, Containerd)
    return Made(engine.store(), engine.made.id, engine.made.diff_ids)


def _in_docker(engine: Engine, name: str) -> Made:
    found = engine.command.json("image", "inspect", name)[0]
    return Made(engine.store(), found["Id"], found["RootFS"]["Layers"])


def _in_storage(engine: Engine, name: str) -> Made:
    found = engine.command.json("image", "inspect", name)[0]
    return Made(engine.store(), f"sha256:{found['Id']}", found["RootFS"]["Layers"])


def _archive(form: Callable[..., images.Files], compression: str) -> bytes:
    """Both samples, which share two layers; only the second where podman would not know which one is meant."""
    one, two = samples()
    one.compression = two.compression = compression
    return images.pack(form(two) if form is images.oci else form(one, two))


def _with_buildkit() -> str:
    """A docker program that can ask its daemon for BuildKit: up to 22 by itself, later with its plugin."""
    for folder in os.environ["PATH"].split(os.pathsep):
        program = shutil.which("docker", path=folder)
        if program is not None:
            told = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
            version = re.search(r"version (\d+)", told)
            plugin = subprocess.run([program, "buildx", "version"], capture_output=True, check=False)
            if (version is not None and int(version[1]) < 23) or plugin.returncode == 0:
                return program
    pytest.skip("no docker program that can build with BuildKit (newer ones need their buildx plugin)")


MAKERS: dict[str, Maker] = {
    "docker build": docker_built,
    "docker build with BuildKit": docker_built_by_buildkit,
    "docker commit": docker_committed,
    "docker load": docker_loaded(images.docker, "none", ONE),
    "docker load gzip": docker_loaded(images.both, "gzip", TWO),
    "podman build": podman_built,
    "podman commit": podman_committed,
    "podman load": podman_loaded(images.docker, "none", ONE),
    "podman load zstd": podman_loaded(images.oci, "zstd", TWO),
    "buildah": buildah_built,
    "ctr import": containerd_tree,
    "ctr import gzip": containerd_imported("gzip"),
    "ctr import plain": containerd_imported("none"),
    "ctr import zstd": containerd_imported("zstd"),
}


@pytest.mark.parametrize("maker", MAKERS)
async def test_layers_are_those_of_the_engine(maker: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    made = MAKERS[maker](request, tmp_path)
    async with made.store as store:
        image = await store.image(made.id)
        assert [layer.diff_id for layer in image.layers] == made.diff_ids
        for layer in image.layers:
            plan = plan_layer(layer, Options())
            body = await exports.body(plan)
            assert plan.digest == layer.diff_id, "made anew, though the engine keeps what it needs"
            assert "sha256:" + hashlib.sha256(body).hexdigest() == layer.diff_id
            assert plan.size == (None if made.compressed else len(body))
