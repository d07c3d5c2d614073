"""What engines make of an image archive: the ID they give it, its names, and the file system they see."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.archives import unpacked
from support.engines import Command, Engines

INIT = (
    *(b".dockerenv", b"dev/console", b"dev/pts", b"dev/shm", b"proc", b"sys"),
    *(b"etc/hostname", b"etc/hosts", b"etc/mtab", b"etc/resolv.conf"),
)
"""What dockerd puts between an image and a container, whatever the image holds."""
INIT_PARENTS = (b"dev", b"etc")


@dataclass(frozen=True)
class View:
    """One image as an engine has it. `without` and `untimed` are the engine's own doing, for `same_tree`."""

    id: str
    names: frozenset[str]
    tree: Path
    without: tuple[bytes, ...] = ()
    untimed: tuple[bytes, ...] = ()


class Viewer:
    """Loads archives into one engine; `of` is a context manager in which the view's tree is there to be read."""

    def __init__(self, engine: str, request: pytest.FixtureRequest, scratch: Path) -> None:
        self.engine = engine
        self._request = request
        self._scratch = scratch

    @contextmanager
    def of(self, archive: Path, name: str) -> Iterator[View]:
        """The image `name` (fully qualified, with tag) of a saved archive."""
        with getattr(self, f"_{self.engine.replace('-', '_')}")(archive, name) as view:
            yield view

    def _command(self, name: str) -> Command:
        return self._request.getfixturevalue(name)  # type: ignore[no-any-return]

    def _inside(self, path: str | Path) -> Path:
        engines: Engines = self._request.getfixturevalue("engines")
        return engines.inside(path)

    @contextmanager
    def _docker(self, archive: Path, name: str) -> Iterator[View]:
        docker = self._command("docker")
        docker("load", "-q", "-i", archive)
        found = docker.json("image", "inspect", name)[0]
        container = docker.text("create", found["Id"], "/none")
        try:
            tree = unpacked(docker("export", container), self._scratch / "exported")
            names = frozenset(qualified(each) for each in found["RepoTags"])
            yield View(found["Id"], names, tree, INIT, INIT_PARENTS)
        finally:
            docker("rm", "-f", container)
            docker("rmi", "-f", found["Id"])

    @contextmanager
    def _podman(self, archive: Path, name: str) -> Iterator[View]:
        podman = self._command("podman")
        podman("load", "-q", "-i", archive)
        loaded = {tag: each for each in podman.json("images", "--format", "json") for tag in each.get("Names") or []}
        # Without an index podman takes a name without a registry for one of its own.
        found = (
            loaded.get(name)
            or loaded[f"localhost/{name.removeprefix('docker.io/library/').removeprefix('docker.io/')}"]
        )
        container = podman.text("create", "--network", "none", found["Id"], "/none")
        try:
            names = frozenset(qualified(each.removeprefix("localhost/")) for each in found["Names"])
            yield View(f"sha256:{found['Id']}", names, self._inside(podman.text("mount", container)))
        finally:
            podman("rm", "-f", container)
            podman("rmi", "-f", found["Id"])

    @contextmanager
    def _ctr(self, archive: Path, name: str) -> Iterator[View]:
        ctr = self._command("ctr")
        # ctr reads a compressed archive as one, but tells by the name "-" that it comes from a pipe.
        with archive.open("rb") as stream:
            ctr("images", "import", "-", stdin=stream)
        target = self._scratch / "mounted"
        target.mkdir()
        lines = ctr.text("images", "list").splitlines()[1:]
        digests = {line.split()[0]: line.split()[2] for line in lines}
        try:
            manifest = json.loads(ctr("content", "get", digests[name]))
            names = frozenset(each for each, digest in digests.items() if digest == digests[name])
            ctr("images", "mount", name, target)
            try:
                yield View(manifest["config"]["digest"], names, self._inside(target))
            finally:
                ctr("images", "unmount", "--rm", target)
        finally:
            ctr("images", "remove", "--sync", *digests)

    @contextmanager
    def _umoci(self, archive: Path, name: str) -> Iterator[View]:
        layout = unpacked(archive, self._scratch / "layout")
        with self._bundle(layout, name, name.rpartition(":")[2]) as view:
            yield view

    @contextmanager
    def _skopeo_oci(self, archive: Path, name: str) -> Iterator[View]:
        """skopeo reads `oci-archive:`, writes a layout of its own, umoci unpacks that."""
        layout = self._scratch / "copied"
        self._command("skopeo")("copy", f"oci-archive:{archive}:{name.rpartition(':')[2]}", f"oci:{layout}:x")
        with self._bundle(layout, name, "x") as view:
            yield view

    @contextmanager
    def _skopeo_docker(self, archive: Path, name: str) -> Iterator[View]:
        """skopeo reads `docker-archive:` and copies into a directory, where the configuration is the very one."""
        skopeo = self._command("skopeo")
        copied = self._scratch / "directory"
        skopeo("copy", f"docker-archive:{archive}:{name}", f"dir:{copied}")
        identity = json.loads((copied / "manifest.json").read_bytes())["config"]["digest"]
        layout = self._scratch / "copied"
        skopeo("copy", f"docker-archive:{archive}:{name}", f"oci:{layout}:x")
        with self._bundle(layout, name, "x") as view:
            yield View(identity, frozenset([name]), view.tree)

    @contextmanager
    def _bundle(self, layout: Path, name: str, tag: str) -> Iterator[View]:
        bundle = self._scratch / "bundle"
        self._command("umoci")("unpack", "--image", f"{layout}:{tag}", bundle)
        index = json.loads((layout / "index.json").read_bytes())["manifests"]
        found = [each for each in index if each["annotations"]["org.opencontainers.image.ref.name"] == tag]
        manifest = json.loads((layout / "blobs/sha256" / found[0]["digest"].removeprefix("sha256:")).read_bytes())
        try:
            yield View(manifest["config"]["digest"], frozenset([name]), bundle / "rootfs")
        finally:
            shutil.rmtree(bundle)


def qualified(name: str) -> str:
    """A name as docker shows it, with the registry that it leaves out."""
    first, slash, _ = name.partition("/")
    if slash and ("." in first or ":" in first):
        return name
    return f"docker.io/{name}" if slash else f"docker.io/library/{name}"
