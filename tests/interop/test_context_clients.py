"""Contexts that streamer makes, built by the real clients: `docker build -`, `podman build -`, `buildah build -`."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from backports import zstd
from support import commandline
from support.dockerd import dockerd
from support.engines import Command, Engines

pytestmark = [pytest.mark.engine, pytest.mark.root]

COMPRESSIONS = ("none", "gzip", "bzip2", "xz", "zstd")


@pytest.fixture(scope="module")
def builder(engines: Engines, containerd: Path) -> Iterator[Command]:
    with dockerd(engines, containerd, "contexts") as client:
        yield client


@pytest.fixture
def context(tmp_path: Path) -> Path:
    place = tmp_path / "context"
    (place / "sub").mkdir(parents=True)
    (place / "Dockerfile").write_text("FROM scratch\nCOPY sub /sub\nLABEL made=here\n")
    (place / "sub/a").write_text("text")
    (place / "sub/left-out").write_text("secret")
    (place / ".dockerignore").write_text("**/left-out\n")
    return place


def made(context: Path, compression: str) -> bytes:
    done = commandline.run("context", context, "--compression", compression)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_docker(builder: Command, context: Path, compression: str) -> None:
    data = made(context, compression)
    if compression == "zstd" and int(builder.text("version", "--format", "{{.Server.Version}}").partition(".")[0]) < 23:
        # Daemons before 23 take what is compressed as zstd, by whatever program, for a bare archive.
        for each in (data, zstd.compress(zstd.decompress(data))):
            assert b"unexpected EOF" in builder("build", "-", stdin=each, fails=True)
        return
    builder("build", "-t", "made:1", "-", stdin=data)
    assert builder.text("inspect", "--format", "{{.Config.Labels.made}}", "made:1") == "here"
    check(builder("save", "made:1"))


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_podman(podman: Command, context: Path, compression: str) -> None:
    podman("build", "-t", "made:1", "-", stdin=made(context, compression))
    assert podman.json("inspect", "--type", "image", "made:1")[0]["Labels"]["made"] == "here"
    check(podman("save", "made:1"))


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_buildah(buildah: Command, context: Path, compression: str) -> None:
    buildah("build", "-t", "made:1", "-", stdin=made(context, compression))
    container = buildah.text("from", "made:1")
    try:
        buildah("copy", "--from", "made:1", container, "/sub/a", "/again")
        assert b"left-out" in buildah("copy", "--from", "made:1", container, "/sub/left-out", "/again", fails=True)
    finally:
        buildah("rm", container)


def check(image: bytes) -> None:
    names = archived(image)
    assert "sub/a" in names
    assert "sub/left-out" not in names


def archived(image: bytes) -> set[str]:
    """Names in the layers of a saved image."""
    names = set()
    with tarfile.open(fileobj=io.BytesIO(image)) as archive:
        for path in json.load(archive.extractfile("manifest.json") or io.BytesIO())[0]["Layers"]:
            with tarfile.open(fileobj=archive.extractfile(path)) as layer:
                names.update(layer.getnames())
    return names
