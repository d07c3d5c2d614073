"""A store that podman made, for the contract of stores: loaded once, copied for each test."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from anyio import to_thread
from support import images
from support.engines import Command, Engines

from streamer.oci import reference as references
from streamer.stores.base import Store
from streamer.stores.containers_storage.store import containers_storage

Remove = Callable[[str], Awaitable[object]]


@contextlib.asynccontextmanager
async def factory(folder: Path, request: pytest.FixtureRequest) -> AsyncIterator[tuple[Store, Remove]]:
    engines: Engines = request.getfixturevalue("engines")
    with copied(engines, request.module.IMAGES) as made:

        def remove(identity: str) -> Awaitable[object]:
            return to_thread.run_sync(lambda: made.podman("image", "rm", "--force", identity))

        yield containers_storage("podman", made.root, made.run), remove


@dataclass(frozen=True)
class Made:
    """A store, and a podman that has no other."""

    podman: Command
    home: Path

    @property
    def root(self) -> Path:
        return self.home / "root"

    @property
    def run(self) -> Path:
        return self.home / "run"


def place(engines: Engines) -> Path:
    """A directory for a store. podman takes no run root of more than 50 characters."""
    return Path(tempfile.mkdtemp(prefix="cs-", dir=engines.home))


def program(
    engines: Engines, home: Path, *options: str | Path, name: str = "podman", driver: str = "overlay"
) -> Command:
    """podman or Buildah with a store below `home`."""
    command: list[str | Path] = ["--root", home / "root", "--runroot", home / "run", "--storage-driver", driver]
    if name == "podman":
        command += ["--tmpdir", home / "tmp", "--events-backend", "file", "--cgroup-manager", "cgroupfs"]
        command += ["--runtime", "runc"]
    return engines.command(name, *command, *options, root=home / "root")


_templates: dict[tuple[Path, str], Path] = {}


@contextlib.contextmanager
def copied(engines: Engines, made: Sequence[images.MadeImage], driver: str = "overlay") -> Iterator[Made]:
    """A store with the images and a container `box` of `shop/tool:1`, and a podman that knows only the images.

    podman's own state names the directory that it was made for, so it stays behind.
    """
    key = engines.home, " ".join([driver, *(each.id for each in made)])
    if key not in _templates:
        home = place(engines)
        podman = program(engines, home, driver=driver)
        for each in made:
            full = replace(each, names=[references.parse(name).name for name in each.names])
            podman("load", "--quiet", stdin=images.pack(images.docker(full)))
        podman("create", "--network", "none", "--name", "box", "shop/tool:1", "/tool")
        _templates[key] = home
    home = place(engines)
    try:
        subprocess.run(["cp", "-a", "--reflink=auto", _templates[key] / "root", home / "root"], check=True)
        shutil.rmtree(home / "root/libpod")
        yield Made(program(engines, home, driver=driver), home)
    finally:
        shutil.rmtree(home, ignore_errors=True)
