"""Subjects: one request to a server, a pipeline of programs, or several of either at once."""

from __future__ import annotations

import os
import select
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

from bench.client import curls
from bench.errors import BenchError
from bench.measure import Sample
from bench.processes import Meter, own_peak

LOOK = 0.1
"""Seconds between looks at the memory of a program that runs."""
READER = ("dd", "bs=1M", "of=/dev/null")
"""Reads a pipe to its end, and tells in its last line of standard error how many bytes came."""


@dataclass(frozen=True, slots=True)
class Request:
    """What curl asks a server for, into /dev/null. Several URLs go over one connection."""

    name: str
    server: int
    """PID; what it and its children need is what counts."""
    arguments: tuple[str, ...]
    """Of curl, the URLs among them."""
    parallel: int = 1
    """So many curls at once, each asking for all of it."""

    programs: Sequence[str] = ()

    def prepared(self) -> AbstractContextManager[None]:
        return nullcontext()

    def run(self) -> Sample:
        meter = Meter(self.server)
        start = time.perf_counter()
        answers = curls([self.arguments] * self.parallel)
        seconds = time.perf_counter() - start
        cpu, memory = meter.read()
        return Sample(
            seconds, max(each.first_byte for each in answers), sum(each.size for each in answers), cpu, memory
        )

    def times(self, parallel: int) -> Request:
        return replace(self, parallel=parallel)


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Programs, each reading what the one before writes; what the last one writes is read from a pipe and dropped."""

    name: str
    commands: tuple[tuple[str, ...], ...]
    around: Callable[[], AbstractContextManager[object]] = nullcontext
    """Held open while it runs, opened beforehand: the mount that it reads."""
    environment: tuple[tuple[str, str], ...] = ()
    parallel: int = 1

    @property
    def programs(self) -> Sequence[str]:
        return [command[0] for command in self.commands]

    def prepared(self) -> AbstractContextManager[None]:
        return _Around(self.around())

    def run(self) -> Sample:
        started: list[subprocess.Popen[bytes]] = []
        if self.parallel == 1:
            return self._once(started)
        start = time.perf_counter()
        with ThreadPoolExecutor(self.parallel) as pool:
            try:
                waiting = [pool.submit(self._once, started) for _ in range(self.parallel)]
                samples = [each.result() for each in waiting]
            except BaseException:
                for process in started:
                    process.kill()
                raise
        return Sample(
            time.perf_counter() - start,
            None,
            sum(each.size for each in samples),
            sum(each.cpu for each in samples),
            sum(each.peak for each in samples),
        )

    def times(self, parallel: int) -> Pipeline:
        return replace(self, parallel=parallel)

    def first_byte(self) -> float:
        """Seconds from its start to the first byte; the programs are ended then."""
        started: list[subprocess.Popen[bytes]] = []
        with self.prepared(), tempfile.TemporaryFile() as complaints:
            start = time.perf_counter()
            try:
                output = self._start(started, self.commands, complaints.fileno())
                if not os.read(output, 1):
                    raise BenchError(f"{self.name} wrote nothing")
                return time.perf_counter() - start
            finally:
                _end(started)

    def _once(self, everything: list[subprocess.Popen[bytes]]) -> Sample:
        """What is started is put into `everything` as well, for those who have to end it early."""
        # One at a time is read here. Several at once would wait for this process: then each has its own reader.
        commands = (*self.commands, READER) if self.parallel > 1 else self.commands
        started: list[subprocess.Popen[bytes]] = []
        with tempfile.TemporaryFile() as complaints:
            start = time.perf_counter()
            try:
                output = self._start(started, commands, complaints.fileno())
                everything += started
                own = started[: len(self.commands)]
                first, size, memory = (
                    (None, 0, _watch(output, own)) if self.parallel > 1 else _drain(output, own, start)
                )
                seconds = time.perf_counter() - start
                cpu = sum([_wait(process) for process in started][: len(own)])
            finally:
                _end(started)
            complaints.seek(0)
            said = complaints.read().decode(errors="replace").strip()
            if any(process.returncode for process in started):
                raise BenchError(f"{self.name} failed: {said[-500:]}")
        if self.parallel > 1:
            size = int(said.split(" bytes")[0].split()[-1])
        return Sample(seconds, first, size, cpu, memory)

    def _start(self, started: list[subprocess.Popen[bytes]], commands: Sequence[Sequence[str]], complaints: int) -> int:
        """The descriptor to read from; each process is in `started` as soon as it runs."""
        environment = {**os.environ, "LC_ALL": "C", **dict(self.environment)}
        for command in commands:
            before = started[-1].stdout if started else subprocess.DEVNULL
            started.append(
                subprocess.Popen(command, stdin=before, stdout=subprocess.PIPE, stderr=complaints, env=environment)
            )
            if not isinstance(before, int) and before is not None:
                before.close()  # so that the one before notices when this one ends
        output = started[-1].stdout
        assert output is not None
        return output.fileno()


class _Around(AbstractContextManager[None]):
    """The same block without what it yields."""

    def __init__(self, inner: AbstractContextManager[object]) -> None:
        self._inner = inner

    def __enter__(self) -> None:
        self._inner.__enter__()

    def __exit__(self, *error: object) -> bool | None:
        return self._inner.__exit__(*error)  # type: ignore[arg-type]


def _drain(output: int, programs: Sequence[subprocess.Popen[bytes]], start: float) -> tuple[float | None, int, int]:
    """Seconds to the first byte, bytes in all, and the highest memory that was seen of the programs (not of what they
    start themselves, like the gzip of tar -z)."""
    # Not BufferedReader: it would wait for a full buffer before it gives the first byte.
    buffer = bytearray(1 << 20)
    first: float | None = None
    size = memory = 0
    looked = start
    while count := os.readv(output, [buffer]):
        size += count
        now = time.perf_counter()
        if first is None:
            first = now - start
        if now - looked > LOOK:
            memory = max(memory, sum(own_peak(process.pid) for process in programs))
            looked = now
    return first, size, memory


def _watch(output: int, programs: Sequence[subprocess.Popen[bytes]]) -> int:
    """The highest memory that was seen of the programs, once nobody can write any more."""
    memory = 0
    while True:
        memory = max(memory, sum(own_peak(process.pid) for process in programs))
        if select.select([output], [], [], LOOK)[0] and not os.read(output, 65536):
            return memory


def _wait(process: subprocess.Popen[bytes]) -> float:
    """CPU seconds of the program and of those that it waited for."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_utime + usage.ru_stime


def _end(started: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait()
        if process.stdout:
            process.stdout.close()
