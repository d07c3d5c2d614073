"""Real engines with `workloads.TREE` as images in them, and containers that run and are changed from inside.

engine = boxes.engine("docker", request)
with engine.box(engine.built) as box:           # runs, from an image of several layers
    box.change()                                # CHANGES inside, capabilities through /proc
    seen = box.seen(tmp_path / "seen")
    async with engine.store() as store:         # the same container, as streamer finds it
        container = await store.container(box.name)
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import pytest
from support import images, trees
from support.engines import Command, Engines
from support.everything import CAPABILITY_2, CAPABILITY_3
from support.trees import Remove
from support.views import INIT
from support.workloads import BUILD, CAPABLE, CHANGES, STEP, TREE

from streamer.stores.base import Store
from streamer.stores.containerd.store import ContainerdStore
from streamer.stores.docker.store import docker_store

LIMITS = ("--network", "none", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024")
"""For `run` and `build`: no network, and no limits above those of the tests themselves."""
RUN = (*LIMITS, "--cap-add", "MKNOD")
STAY = ("/bin/sleep", "100000")


@dataclass
class Box:
    """A container that runs. `merged` is what it sees, without what is mounted in it (/proc, /etc/hosts …)."""

    engine: Engine
    name: str
    pid: int
    merged: Path

    def change(self) -> None:
        """`CHANGES` as the container itself makes them, and file capabilities as root outside gives them."""
        self.engine.execute(self.name, CHANGES)
        for path, capability in zip(CAPABLE, (CAPABILITY_2, CAPABILITY_3, CAPABILITY_2), strict=True):
            os.setxattr(self.inside(path), "security.capability", capability)

    def inside(self, path: str) -> str:
        """A path of the container, for processes outside."""
        return f"/proc/{self.pid}/root/{path}"

    def seen(self, place: Path) -> Path:
        """A copy of the tree as it is now."""
        return Path(trees.copy(self.merged, trees.make(place)).decode())


class Engine(ABC):
    """One engine with `TREE` as image `base`, and with a step on it as `built`. Made once for all tests (`engine`)."""

    name: ClassVar[str]
    base: ClassVar[str]
    built: ClassVar[str]
    init: ClassVar[tuple[bytes, ...]] = ()
    """What the engine lays between an image and a container: seen inside, and in no diff."""

    def __init__(self, request: pytest.FixtureRequest, place: Path) -> None:
        self.request = request
        self.place = place
        self.numbers = itertools.count(1)
        self.engines: Engines = request.getfixturevalue("engines")
        self.command: Command = request.getfixturevalue(self.name)
        self.make()

    @cached_property
    def archive(self) -> Path:
        """`TREE` as GNU tar packs it."""
        packed = self.place / "tree.tar"
        trees.make(self.place / "tree", *TREE, Remove("everything/run/socket"))
        options = ("--format=pax", "--pax-option=delete=atime,delete=ctime", "--numeric-owner", "--sort=name")
        command = ("tar", *options, "--xattrs", "--xattrs-include=security.capability", "-C", self.place / "tree")
        subprocess.run([*command, "-cf", packed, "."], check=True)
        return packed

    def context(self, base: str) -> Path:
        """A directory with a build of several steps on `base`."""
        place = self.place / "context"
        place.mkdir(exist_ok=True)
        lines = " && ".join(line for line in BUILD.splitlines() if line)
        (place / "Dockerfile").write_text(f"FROM {base}\nENV STEP=1\nRUN {lines}\nCOPY added /added/file\n")
        (place / "added").write_text("added")
        return place

    @contextmanager
    def box(self, image: str) -> Iterator[Box]:
        """A container of `image` that runs until the block is left, whatever became of it."""
        name = f"box-{next(self.numbers)}"
        try:
            yield self.run(name, image)
        finally:
            self.remove(name)

    @abstractmethod
    def make(self) -> None:
        """Makes the images."""

    @abstractmethod
    def store(self) -> AbstractAsyncContextManager[Store]:
        """What the engine keeps, as streamer reads it."""

    @abstractmethod
    def run(self, name: str, image: str) -> Box: ...

    @abstractmethod
    def execute(self, name: str, script: str) -> None: ...

    def stop(self, name: str) -> None:
        self.command("stop", "-t", "0", name)

    @abstractmethod
    def remove(self, name: str) -> None: ...


class Docker(Engine):
    name = "docker"
    base, built = "work/base:1", "work/built:1"
    init = INIT

    def make(self) -> None:
        self.command("import", self.archive, self.base)
        legacy = self.engines.command("docker", *self.options, DOCKER_BUILDKIT="0")
        legacy("build", "-q", "--network", "none", "-t", self.built, self.context(self.base))

    @property
    def options(self) -> tuple[str, str]:
        """For another program that asks the same daemon."""
        return "--host", f"unix://{self.command.root.parent}/s"

    def store(self) -> AbstractAsyncContextManager[Store]:
        root = self.command.root
        return nullcontext(docker_store("docker", root, [str(root.parent / "s")]))

    def run(self, name: str, image: str) -> Box:
        self.command("run", "-d", "--name", name, *RUN, image, *STAY)
        found = self.command.json("inspect", name)[0]
        merged = self.engines.inside(found["GraphDriver"]["Data"]["MergedDir"])
        return Box(self, name, found["State"]["Pid"], merged)

    def execute(self, name: str, script: str) -> None:
        self.command("exec", name, "/bin/sh", "-c", script)

    def remove(self, name: str) -> None:
        self.command("rm", "-f", name)


class Podman(Engine):
    name = "podman"
    base, built = "localhost/work/base:1", "localhost/work/built:1"

    def __init__(self, request: pytest.FixtureRequest, place: Path) -> None:
        # crun refuses cgroups of both versions side by side.
        self.runtime = ("--runtime", "runc") if shutil.which("runc") else ()
        super().__init__(request, place)

    def make(self) -> None:
        self.command("import", "-q", self.archive, self.base)
        self.command(*self.runtime, "build", "-q", *LIMITS, "-t", self.built, self.context(self.base))

    def store(self) -> AbstractAsyncContextManager[Store]:
        from streamer.stores.containers_storage.store import containers_storage

        root = self.command.root
        return nullcontext(containers_storage("podman", root, root.parent / "run"))

    def run(self, name: str, image: str) -> Box:
        self.command(*self.runtime, "run", "-d", "--name", name, *RUN, image, *STAY)
        found = self.command.json("inspect", name)[0]
        merged = self.engines.inside(found["GraphDriver"]["Data"]["MergedDir"])
        return Box(self, name, found["State"]["Pid"], merged)

    def execute(self, name: str, script: str) -> None:
        self.command("exec", name, "/bin/sh", "-c", script)

    def remove(self, name: str) -> None:
        self.command("rm", "-f", "-t", "0", name)


class Containerd(Engine):
    name = "ctr"
    base, built = "docker.io/work/base:1", "docker.io/work/built:1"
    NAMESPACE = "work"

    def make(self) -> None:
        self.address = self.command.root / "s"
        self.command = self.engines.command("ctr", "--address", self.address, "--namespace", self.NAMESPACE)
        data = self.archive.read_bytes()
        base = images.image(data, names=[self.base], compression="gzip")
        self.made = images.image(data, STEP, names=[self.built])
        for made in (base, self.made):
            self.command("images", "import", "-", stdin=images.pack(images.both(made)))

    def store(self) -> AbstractAsyncContextManager[Store]:
        return ContainerdStore.open("ctr", str(self.address), self.NAMESPACE)

    def run(self, name: str, image: str) -> Box:
        self.command("run", "-d", image, name, *STAY)
        pid = next(int(pid) for task, pid, *_ in map(str.split, self._tasks()) if task == name)
        place = self.address.parent / "state/io.containerd.runtime.v2.task" / self.NAMESPACE / name / "rootfs"
        return Box(self, name, pid, self.engines.inside(place))

    def execute(self, name: str, script: str) -> None:
        self.command("task", "exec", "--exec-id", f"script-{next(self.numbers)}", name, "/bin/sh", "-c", script)

    def stop(self, name: str) -> None:
        self.command("task", "rm", "-f", name)

    def remove(self, name: str) -> None:
        if any(line.split()[0] == name for line in self._tasks()):
            self.command("task", "rm", "-f", name)
        self.command("containers", "rm", name)

    def _tasks(self) -> list[str]:
        return self.command.text("task", "list").splitlines()


ENGINES: dict[str, type[Engine]] = {each.name: each for each in (Docker, Podman, Containerd)}
_MADE = pytest.StashKey[dict[str, Engine]]()


def engine(name: str, request: pytest.FixtureRequest) -> Engine:
    """The engine with its images, made for the first test that asks."""
    made = request.session.stash.setdefault(_MADE, {})
    if name not in made:
        factory: pytest.TempPathFactory = request.getfixturevalue("tmp_path_factory")
        made[name] = ENGINES[name](request, factory.mktemp(f"work-{name}"))
    return made[name]
