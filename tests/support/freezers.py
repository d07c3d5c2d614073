"""An engine with one container that can be paused, for faults and races that a real one shows too rarely."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path


def watchers(pid: int | str = "self") -> list[str]:
    """The watchers among the children of a process."""
    found: list[str] = []
    # The kernel keeps children by the thread that made them; one that ends gives its own to another.
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            for child in children.read_text().split():
                found += [child] if b"\0watcher\0" in _command(child) else []
        except (FileNotFoundError, ProcessLookupError):
            continue
    return sorted(found)


def _command(pid: str) -> bytes:
    """The command line of a process; empty for a zombie, and for a moment while a program is being started."""
    while not (command := Path(f"/proc/{pid}/cmdline").read_bytes()):
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            break
    return command


class Engine:
    """What a container is (`running`, `paused`, `exited`), what was asked, and what is to go wrong with that."""

    def __init__(self, file: Path, state: str = "running") -> None:
        self.file = file
        """Where the state is kept, so that another process can change it as well."""
        self.state = state
        self.asked: list[str] = []
        self.faults: dict[str, Exception] = {}
        self.then: dict[str, Callable[[], object]] = {}
        """What happens right after a question was answered."""

    @property
    def state(self) -> str:
        return self.file.read_text()

    @state.setter
    def state(self, value: str) -> None:
        self.file.write_text(value)

    def ask(self, what: str) -> None:
        self.asked.append(what)
        if what in self.faults:
            raise self.faults[what]

    def done(self, what: str) -> None:
        if what in self.then:
            self.then[what]()

    def becomes(self, state: str, limit: float = 60) -> bool:
        """Whether the container gets into this state soon."""
        deadline = time.monotonic() + limit
        while self.state != state:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.005)
        return True


class FakeFreezer:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.lock = threading.Lock()

    def pause(self) -> bool:
        self.engine.ask("pause")
        paused = self.engine.state == "running"
        if paused:
            self.engine.state = "paused"
        self.engine.done("pause")
        return paused

    def resume(self) -> None:
        self.engine.ask("resume")
        if self.engine.state == "paused":
            self.engine.state = "running"
        self.engine.done("resume")

    def still(self) -> bool:
        self.engine.ask("still")
        answer = self.engine.state != "running"
        self.engine.done("still")
        return answer

    @property
    def resume_command(self) -> tuple[str, ...]:
        return ("/bin/sh", "-c", 'grep -q paused "$1" && printf running > "$1"', "resume", str(self.engine.file))
