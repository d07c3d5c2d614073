"""One run of the benchmark: what is there, how often it measures, where trees live."""

from __future__ import annotations

import fcntl
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench import engines
from bench.engines import Engine
from bench.errors import BenchError
from bench.measure import Entrant, Row, Say, interleaved
from bench.server import Streamer, streamer
from bench.trees import Tree


@dataclass(slots=True)
class Session:
    work: Path
    runs: int
    quick: bool
    say: Say
    engines: list[Engine] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)
    """What is left out, and why."""
    warm_only: str | None = None

    @property
    def first(self) -> Engine:
        """The one whose container everything but the other engine is compared on."""
        return self.engines[0]

    def fill(self, tree: Tree, *only: Engine) -> None:
        """Into every engine, or into these; what is there already is left as it is."""
        for engine in only or self.engines:
            if not engine.has(tree):
                self.say(f"filling {engine.name} once: {tree.about} …")
                start = time.monotonic()
                engine.fill(tree)
                self.say(f"  took {time.monotonic() - start:.0f} s")

    @contextmanager
    def server(self, **environment: str) -> Iterator[Streamer]:
        """A streamer just started, with the stores of all engines."""
        log = self.work / "logs" / "streamer.log"
        stores = [engine.store for engine in self.engines]
        with streamer(self.work / "state", log, stores, **environment) as server:
            yield server

    def rounds(
        self,
        title: str,
        entrants: Sequence[Entrant],
        *,
        cold: bool = False,
        runs: int | None = None,
        settle: bool = True,
    ) -> list[Row]:
        """What `interleaved` says, in as many runs as the session has unless told otherwise."""
        self.say(f"{title}:")
        return interleaved(entrants, runs or self.runs, self.say, cold=cold, settle=settle)


@contextmanager
def session(work: Path, runs: int, quick: bool, say: Say) -> Iterator[Session]:
    """Starts the engines that are there; in a private mount namespace already."""
    (work / "logs").mkdir(parents=True, exist_ok=True)
    (work / "state").mkdir(exist_ok=True)
    made = Session(work, runs, quick, say)
    with ExitStack() as stack:
        stack.enter_context(_alone(work))
        for name in ("docker", "podman"):
            if reason := engines.missing(name):
                made.absent.append(f"{name}: {reason}")
                continue
            try:
                say(f"starting {name} …")
                found: Engine = stack.enter_context(engines.docker(work)) if name == "docker" else engines.Podman(work)
                made.engines.append(found)
            except BenchError as error:
                made.absent.append(f"{name}: {error}")
        if not made.engines:
            made.engines.append(engines.Local(work))
        for program, package in (("bsdtar", "libarchive-tools"), ("pigz", "pigz")):
            if shutil.which(program) is None:
                made.absent.append(f"{program}: not installed (apt-get install {package})")
        yield made


@contextmanager
def _alone(work: Path) -> Iterator[None]:
    """BenchError if another run has the directory: two daemons on one data-root destroy it."""
    with (work / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BenchError(f"another benchmark runs in {work}; wait for it, or give another --work") from None
        yield
