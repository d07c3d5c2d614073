"""The engines' fixtures themselves: each answers, keeps to its private place, and sees what the tests give it."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.engines import Command, Engines

pytestmark = [pytest.mark.engine, pytest.mark.root]


@pytest.mark.parametrize("name", ["docker", "podman", "buildah", "ctr", "skopeo", "umoci"])
def test_answers(name: str, request: pytest.FixtureRequest) -> None:
    command: Command = request.getfixturevalue(name)
    assert command("--version")


def test_nothing_of_the_machine_is_used(docker: Command, podman: Command, engines: Engines) -> None:
    home = str(engines.home)
    assert docker.text("info", "--format", "{{.DockerRootDir}} {{.Driver}}") == f"{home}/docker/data overlay2"
    assert podman.json("info", "--format", "json")["store"]["graphRoot"].startswith(home)
    with open("/proc/self/mountinfo", encoding="utf-8") as mounts:
        assert home not in mounts.read()


def test_mounts_are_seen_from_outside(podman: Command, engines: Engines, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    made = podman.text("import", "-q", _packed(tmp_path), "mounted:1")
    container = podman.text("create", "--network", "none", made, "/none")
    try:
        seen = engines.inside(podman.text("mount", container))
        assert (seen / "file").read_text() == "x"
    finally:
        podman("rm", "-f", container)


def _packed(tree: Path) -> Path:
    from support import images

    archive = tree.parent / "packed.tar"
    archive.write_bytes(images.layer(*(images.file(each.name, each.read_bytes()) for each in tree.iterdir())))
    return archive
