"""Containers of real engines that count into two files, to be paused and looked at."""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
from anyio.from_thread import start_blocking_portal
from support import images
from support.engines import Command, Engines
from support.factories import containerd as containerds

from streamer.stores.base import Container
from streamer.stores.containerd.store import ContainerdStore
from streamer.stores.containers_storage.store import containers_storage
from streamer.stores.docker.store import docker_store

# One log comes first in an archive and in a diff, then what takes a while to send, the other log last.
COUNT = "busybox cat /m-ballast > /n-ballast; i=0; while :; do i=$((i+1)); echo $i >> /a-log; echo $i >> /z-log; done"
BALLAST = 8 << 20
RUN = ("-d", "--network", "none", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096")


@dataclass
class Box:
    """A container that counts: each number into one log, and then into another."""

    WORDS: ClassVar[dict[str, tuple[str, ...]]] = {}
    """What a command is called, where that is not its name."""

    engine: Command
    id: str
    record: Container
    store: str
    """As `--store` takes it."""

    def tell(self, command: str) -> None:
        self.engine(*self.WORDS.get(command, (command,)), self.id)

    def status(self) -> str:
        return self.engine.text("inspect", "--format", "{{.State.Status}}", self.id)

    def kill(self) -> None:
        """And waits for its end."""
        self.tell("kill")
        self.tell("wait")

    def remove(self) -> None:
        """Whatever it does now, and if it is there at all."""
        for command in ("unpause", "kill", "rm"):
            try:
                self.tell(command)
            except AssertionError:
                pass

    @property
    def log(self) -> Path:
        return Path(os.fsdecode(self.record.snapshot.layers[0]), "z-log")

    def runs(self, limit: float = 60) -> bool:
        """Whether it goes on counting, by more than the one number that it may have begun to write."""
        began = self._counted()
        deadline = time.monotonic() + limit
        while self._counted() <= began + 100:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.005)
        return True

    def stands(self) -> bool:
        began = self._counted()
        return not self.runs(0.1) and self._counted() == began and self.status() == "paused"

    def _counted(self) -> int:
        return self.log.stat().st_size if self.log.exists() else 0


class EngineBox(Box):
    """Docker's or podman's."""

    WORDS: ClassVar[dict[str, tuple[str, ...]]] = {"rm": ("rm", "-f")}


class ContainerdBox(Box):
    WORDS: ClassVar[dict[str, tuple[str, ...]]] = {
        "pause": ("tasks", "pause"),
        "unpause": ("tasks", "resume"),
        "kill": ("tasks", "kill", "-s", "KILL"),
        "start": ("tasks", "start", "-d"),
    }

    def status(self) -> str:
        for line in self.engine.text("tasks", "ls").splitlines():
            if line.split()[0] == self.id:
                return {"STOPPED": "exited"}.get(line.split()[2], line.split()[2].lower())
        return "created"

    def tell(self, command: str) -> None:
        if command == "wait":
            deadline = time.monotonic() + 60
            while self.status() != "exited":
                assert time.monotonic() < deadline
                time.sleep(0.005)
            return
        if command == "start":
            self.engine("tasks", "delete", self.id)
        if command == "rm":
            if self.status() != "created":
                self.engine("tasks", "delete", "--force", self.id)
            self.engine("containers", "delete", self.id)
            return
        super().tell(command)


KINDS = ("docker", "podman", "containerd")


@contextmanager
def counting(kind: str, request: pytest.FixtureRequest, *options: str) -> Iterator[Box]:
    """A container of that engine that counts already, gone when the block is left; `options` are for `run`."""
    engines: Engines = request.getfixturevalue("engines")
    with start_blocking_portal() as portal:
        if kind == "containerd":
            ctr, address, namespace = containerds.namespace(request)
            made = images.MadeImage([_tree(engines).read_bytes()], ["docker.io/library/counting:1"])
            containerds.load(ctr, engines.home, made)
            identity = f"box-{secrets.token_hex(8)}"
            ctr("run", "-d", *options, made.names[0], identity, "/bin/sh", "-c", COUNT)
            opened = portal.wrap_async_context_manager(ContainerdStore.open("real", str(address), namespace))
            with opened as store:
                record = portal.call(store.container, identity)
                yield from _counting(ContainerdBox(ctr, identity, record, f"real=containerd:{address}#{namespace}"))
            return
        engine: Command = request.getfixturevalue(kind)
        engine("import", _tree(engines), "counting:1")
        runtime = ("--runtime", "runc") if kind == "podman" else ()
        identity = engine.text(*runtime, "run", *RUN, *options, "counting:1", "/bin/sh", "-c", COUNT).splitlines()[-1]
        root = engine.root
        if kind == "docker":
            place = f"docker:{root}+{socket(engine)}"
            record = asyncio.run(docker_store("real", root, [socket(engine)]).container(identity))
        else:
            place = f"containers-storage:{root}+{root.parent}/run"
            record = asyncio.run(containers_storage("real", root, root.parent / "run").container(identity))
        yield from _counting(EngineBox(engine, identity, record, f"real={place}"))


def socket(docker: Command) -> str:
    return str(docker.root.parent / "s")


def podman_program(engines: Engines) -> Path:
    """A directory with a `podman` for processes outside, whose mounts and state lie in the engines' namespace."""
    folder = engines.home / "path"
    if not folder.exists():
        folder.mkdir()
        holder = engines.inside("/").parent
        program = folder / "podman"
        program.write_text(f'#!/bin/sh\nexec nsenter --mount={holder}/ns/mnt -- /usr/bin/podman "$@"\n')
        program.chmod(0o755)
    return folder


def _counting(box: Box) -> Iterator[Box]:
    try:
        assert box.runs()
        yield box
    finally:
        box.remove()


def _tree(engines: Engines) -> Path:
    path = engines.home / "counting.tar"
    if not path.exists():
        path.write_bytes(
            images.layer(
                images.directory("bin/"),
                images.file("bin/busybox", Path("/bin/busybox").read_bytes(), mode=0o755),
                images.link("bin/sh", "bin/busybox", mode=0o755),
                images.file("m-ballast", os.urandom(BALLAST)),
            )
        )
    return path
