"""Engines at work on the very things that streamer exports, and who reads meanwhile."""

from __future__ import annotations

import http.client
import io
import json
import socket
import tarfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path

from support import images, payloads
from support.engines import Command
from support.images import encoded
from support.payloads import Faults, saved, tar_of, tree
from support.unpacking import filtered

LIMIT = 120
"""Seconds after which nothing can be called slow any more: it hangs."""


# Who reads it


class Way(Enum):
    EAGER = "reads on"
    STEPS = "waits for the engine's next command again and again"
    SLOW = "waits once until the engine has removed and made everything anew"
    DROPS = "closes the connection in the middle"


@dataclass(frozen=True, slots=True)
class Ending:
    """How one export ended: `complete` with its body, `broken`, `dropped` (by the client), or refused with a status and
    a code such as `not_found`."""

    how: str
    body: bytes = b""
    status: int = 200
    detail: str = ""


class Reading:
    """One export whose headers have come."""

    def __init__(self, port: int, path: str) -> None:
        sock = socket.socket()
        # Small, so that what waits between here and the files is the least possible.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
        sock.settimeout(LIMIT)
        self._connection = http.client.HTTPConnection("127.0.0.1", port)
        self._connection.sock = sock
        self._response: http.client.HTTPResponse | None = None
        self._begun = b""
        self._broken = False
        self.refused: Ending | None = None
        """Set where there is nothing to read."""
        try:
            sock.connect(("127.0.0.1", port))
            self._connection.request("GET", path)
            self._response = self._connection.getresponse()
            if self._response.status != 200:
                problem = json.loads(self._response.read())
                self.refused = Ending(problem["code"], status=problem["status"], detail=problem["detail"])
        except (http.client.RemoteDisconnected, ConnectionResetError):
            self.refused = Ending("broken")
        except BaseException:
            self.close()
            raise

    def taste(self) -> None:
        """Reads some, so that the export is under way for sure."""
        self._begun = self._read(64 << 10)

    def steps(self, wait: Callable[[], None]) -> Ending:
        """Everything, with a pause before each piece."""
        while piece := self._read(1 << 20):
            self._begun += piece
            wait()
        return self.rest()

    def rest(self) -> Ending:
        """Everything up to the end, however it ends. TimeoutError if it hangs."""
        assert self._response is not None
        body = self._begun + self._read(None)
        length = self._response.getheader("Content-Length")
        if self._broken or (length is not None and int(length) != len(body)):
            return Ending("broken")
        return Ending("complete", body)

    def _read(self, most: int | None) -> bytes:
        assert self._response is not None
        if not self._broken:
            try:
                return self._response.read(most)
            except (http.client.IncompleteRead, ConnectionResetError):
                self._broken = True
        return b""

    def close(self) -> None:
        if self._response is not None:
            self._response.close()
        self._connection.close()


def export(churn: Churn, port: int, path: str, way: Way, begun: Callable[[], None]) -> Ending:
    """One export; `begun` is called when its headers are there."""
    with closing(Reading(port, path)) as reading:
        if reading.refused is not None:
            return reading.refused
        begun()
        if way is Way.EAGER:
            return reading.rest()
        if way is Way.STEPS:
            return reading.steps(churn.wait_for_command)
        reading.taste()
        if way is Way.DROPS:
            return Ending("dropped")
        churn.wait_until_removed()
        return reading.rest()


# The engines

GONE = {"not_found": 404, "source_changed": 500}


@dataclass(frozen=True, slots=True)
class Target:
    path: str
    faults: Faults
    refusals: Mapping[str, int] = field(default_factory=lambda: GONE)
    """Codes and statuses that something which comes and goes may be answered with."""


class Churn(ABC):
    """One engine with the images `tool` and `data` of `payloads` and, most of the time, a container `box`."""

    def __init__(self, command: Command, store: str, folder: Path) -> None:
        self.command = command
        self.tool, self.data = payloads.tool(), payloads.data()
        self.store = store
        """As `--store` has it."""
        self.rounds = 0
        self.box: int | None = 0
        """Which box there is; None while there is none, or one that is being filled."""
        self.took: dict[str, list[float]] = {}
        """Seconds of every command by its first words."""
        self._turned = threading.Condition()
        self._commands = 0
        self._failed = False
        self.archives = {}
        for made in (self.tool, self.data):
            self.archives[made.id] = folder / f"{encoded(made.data)[:12]}.tar"
            self.archives[made.id].write_bytes(images.pack(images.docker(made)))

    def targets(self) -> list[Target]:
        box, image = "/v1/containers/box", "/v1/images/churn/data:1"
        return [
            Target(f"{box}/archive", tree("lower", changes=True)),
            Target(f"{image}/rootfs", tree("first", "second")),
            Target(f"{box}/diff", tree(changes=True)),
            Target(f"{image}/archive", saved(self.data)),
            *(Target(f"/v1/layers/{diff_id}/archive", tar_of(diff_id)) for diff_id in self.data.diff_ids),
        ]

    def round(self) -> None:
        """Everything is made, used and removed once; what stays is `data`, made anew."""
        self.make_box()
        self.use_box(run=self.rounds % 2 == 1)
        self.replace_data()
        self.remove_box()
        self.prune()
        self._turn()

    @contextmanager
    def working(self) -> Iterator[None]:
        """The engine goes round and round while the block is open."""
        stop, failures = threading.Event(), []

        def work() -> None:
            try:
                while not stop.is_set():
                    self.round()
            except BaseException as error:
                failures.append(error)
                self._failed = True
                self._turn()

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(LIMIT)
        assert not failures, failures
        assert not thread.is_alive(), "the engine hangs"

    def wait_until_removed(self) -> None:
        """Until all that there is now has been removed."""
        until = self.rounds + 2
        self._wait(lambda: self.rounds >= until)

    def wait_for_command(self) -> None:
        """Until the engine has done one more command."""
        until = self._commands + 1
        self._wait(lambda: self._commands >= until)

    def _wait(self, true: Callable[[], bool]) -> None:
        with self._turned:
            assert self._turned.wait_for(lambda: true() or self._failed, LIMIT), "the engine hangs"

    def _turn(self) -> None:
        with self._turned:
            self.rounds += 1
            self._turned.notify_all()

    def run(self, *arguments: object, stdin: bytes | None = None) -> bytes:
        began = time.monotonic()
        try:
            return self.command(*arguments, stdin=stdin, limit=LIMIT)
        finally:
            words = " ".join(str(argument) for argument in arguments[:3] if str(argument).isalpha())
            with self._turned:
                self.took.setdefault(words, []).append(time.monotonic() - began)
                self._commands += 1
                self._turned.notify_all()

    @abstractmethod
    def set_up(self) -> None: ...

    @abstractmethod
    def make_box(self) -> None:
        """A container `box` of `tool`, changed and not running."""

    @abstractmethod
    def use_box(self, *, run: bool) -> None: ...

    @abstractmethod
    def replace_data(self) -> None:
        """`data` is removed with everything, and comes back."""

    @abstractmethod
    def remove_box(self) -> None: ...

    @abstractmethod
    def prune(self) -> None: ...

    @abstractmethod
    def tear_down(self) -> None:
        """Nothing of ours is left in the engine."""


class Shell(Churn):
    """Docker and podman, whose commands are the same."""

    create: tuple[str, ...] = ("create",)
    remove: tuple[str, ...] = ("rm", "-f")

    def targets(self) -> list[Target]:
        commit = Target("/v1/images/churn/commit:1/rootfs", tree("lower", changes=True))
        return [*super().targets(), commit]

    def set_up(self) -> None:
        for path in self.archives.values():
            self.run("load", "-i", path)

    def make_box(self) -> None:
        # Under another name until it is filled: what is called `box` is whole.
        image = self.tool.names[0]
        self.run(*self.create, "--name", "making", "--network", "none", image, "/bin/busybox", "sleep", "600")
        self.run("cp", "-", "making:/", stdin=payloads.changed(self.rounds))
        self.run("rename", "making", "box")

    def use_box(self, *, run: bool) -> None:
        if run:
            self.run("start", "box")
        self.run("commit", "box", "churn/commit:1")
        if run:
            self.run("stop", "-t", "0", "box")

    def replace_data(self) -> None:
        self.run("rmi", "-f", self.data.names[0])
        self.run("load", "-i", self.archives[self.data.id])

    def remove_box(self) -> None:
        self.run(*self.remove, "box")

    def prune(self) -> None:
        self.run("image", "prune", "-f")
        self.run("container", "prune", "-f")

    def tear_down(self) -> None:
        for name in {"making", "box"} & set(self.command.text("ps", "-a", "--format", "{{.Names}}").split()):
            self.command(*self.remove, name)
        self.command("rmi", "-f", *self.tool.names, *self.data.names)
        if "churn/commit" in self.command.text("images"):
            self.command("rmi", "-f", "churn/commit:1")
        self.command("image", "prune", "-f")


class Podman(Shell):
    # Its own defaults are more than a test machine may have: limits, and cgroups as its usual runtime wants them.
    create = ("--runtime", "runc", "create", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024")
    remove = ("rm", "-f", "-t", "0")


class Containerd(Churn):
    def targets(self) -> list[Target]:
        # An image is there before it is unpacked.
        return [
            replace(each, refusals={**GONE, "unsupported": 422}) if each.path.endswith("/rootfs") else each
            for each in super().targets()
        ]

    def set_up(self) -> None:
        for path in self.archives.values():
            self.run("images", "import", path)

    def make_box(self) -> None:
        self.run("containers", "create", f"docker.io/{self.tool.names[0]}", "box", "/bin/busybox", "sleep", "600")
        # Not mounted yet, so its directory may be written.
        told = self.command.text("snapshots", "mounts", "/none", "box")
        (upper,) = (option[9:] for option in told.replace(",", " ").split() if option.startswith("upperdir="))
        with tarfile.open(fileobj=io.BytesIO(payloads.changed(self.rounds))) as archive:
            archive.extractall(upper, **filtered("fully_trusted"))
        self.box = self.rounds

    def use_box(self, *, run: bool) -> None:
        if run:
            self.run("tasks", "start", "-d", "box")
            self.run("tasks", "kill", "-s", "KILL", "box")
            self.run("tasks", "rm", "-f", "box")

    def replace_data(self) -> None:
        self.run("images", "rm", "--sync", f"docker.io/{self.data.names[0]}")
        self.run("images", "import", self.archives[self.data.id])

    def remove_box(self) -> None:
        self.box = None
        self.run("containers", "rm", "box")

    def prune(self) -> None:
        self.run("leases", "ls")

    def tear_down(self) -> None:
        if "box" in self.command.text("tasks", "ls", "-q").split():
            self.command("tasks", "rm", "-f", "box")
        if "box" in self.command.text("containers", "ls", "-q").split():
            self.command("containers", "rm", "box")
        for lease in self.leases():
            self.command("leases", "rm", "--sync", lease.split()[0])
        self.command("images", "rm", "--sync", *(f"docker.io/{made.names[0]}" for made in (self.tool, self.data)))

    def leases(self) -> list[str]:
        return self.command.text("leases", "ls").splitlines()[1:]

    def views(self) -> list[str]:
        return [line for line in self.command.text("snapshots", "ls").splitlines() if "View" in line.split()]
