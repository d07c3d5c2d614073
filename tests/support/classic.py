"""The classic builder of a real dockerd: images of `support.dockerfiles` and what is in them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support import trees
from support.dockerfiles import BASE, BASES, CONTEXT, Case, Entry, flattened
from support.engines import Command
from support.images import layer
from support.overlays import parameters


@dataclass(frozen=True)
class Built:
    """`config` is the document of the image, `inspected` what `docker inspect` says of it."""

    id: str
    config: dict[str, Any]
    tree: dict[str, Entry]
    inspected: dict[str, Any]


class Classic:
    """`docker build` without BuildKit. `bases` is an archive of the images that Dockerfiles build on."""

    def __init__(self, docker: Command, place: Path) -> None:
        self.docker = docker
        self.place = place
        self.context = Path(trees.make(place / "context", *CONTEXT).decode())
        self.bases = place / "bases.tar"
        for name, changes in BASES.items():
            options = [part for change in changes for part in ("--change", change)]
            docker("import", *options, "-", name, stdin=layer(*BASE))
        docker("save", "-o", self.bases, *BASES)

    def build(self, case: Case, *options: object) -> Built:
        """The image that it makes of a Dockerfile, without its cache."""
        (self.context / "Dockerfile").write_text(case.text)
        given = [part for name, value in case.arguments.items() for part in ("--build-arg", f"{name}={value}")]
        given += [part for name, value in case.labels.items() for part in ("--label", f"{name}={value}")]
        given += ["--target", case.target] if case.target else []
        with parameters(change=False):
            self.docker("build", "--no-cache", "-t", "classic:1", *given, *options, self.context)
        return self.described("classic:1")

    def load(self, archive: Path, name: str) -> Built:
        """The image that it loads from an archive that somebody else saved."""
        self.docker("load", "-q", "-i", archive)
        return self.described(name)

    def described(self, name: str) -> Built:
        inspected = self.docker.json("image", "inspect", name)[0]
        saved = self.place / "saved.tar"
        self.docker("save", "-o", saved, name)
        config, tree = flattened(saved)
        return Built(inspected["Id"], config, tree, inspected)
