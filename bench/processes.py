"""Daemons that end with the benchmark, and what the kernel counts of a process and its children."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar

from bench.errors import BenchError

T = TypeVar("T")

TICK = os.sysconf("SC_CLK_TCK")


class Stat(NamedTuple):
    """The fields of /proc/PID/stat that matter here."""

    parent: int
    ticks: int
    """CPU time in clock ticks, user and system, with that of children that were waited for."""
    started: int


def parse_stat(text: str) -> Stat:
    """The name of the program is in brackets and may hold anything, brackets as well."""
    fields = text[text.rindex(")") + 2 :].split()
    return Stat(int(fields[1]), sum(map(int, fields[11:15])), int(fields[19]))


def parse_peak(status: str) -> int:
    """Bytes of VmHWM in /proc/PID/status; 0 for a process that has ended or is of the kernel."""
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    return 0


def tree(root: int) -> dict[int, Stat]:
    """The process and everything below it, by PID; empty if it is gone."""
    every: dict[int, Stat] = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (text := _text(f"/proc/{name}/stat")):
            every[int(name)] = parse_stat(text)
    children: dict[int, list[int]] = {}
    for pid, stat in every.items():
        children.setdefault(stat.parent, []).append(pid)
    found: dict[int, Stat] = {}
    todo = [root]
    while todo:
        pid = todo.pop()
        if pid in every and pid not in found:
            found[pid] = every[pid]
            todo += children.get(pid, ())
    return found


def peak(root: int) -> int:
    """Bytes: the highest resident size of each process of the tree, added up."""
    return sum(map(own_peak, tree(root)))


def own_peak(pid: int) -> int:
    """Bytes: the highest resident size of this process alone; 0 if it has ended."""
    return parse_peak(_text(f"/proc/{pid}/status"))


class Meter:
    """CPU time and peak memory of a process tree from now on. One at a time: the kernel keeps one peak of a process."""

    def __init__(self, root: int) -> None:
        self._root = root
        for pid in tree(root):
            try:
                Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak becomes what is resident now
            except OSError:
                pass
        self._before = self._seconds()

    def read(self) -> tuple[float, int]:
        """CPU seconds used since the meter was made, and the peak in bytes."""
        return self._seconds() - self._before, peak(self._root)

    def _seconds(self) -> float:
        return sum(stat.ticks for stat in tree(self._root).values()) / TICK


@contextmanager
def daemon(
    name: str,
    command: Sequence[str | Path],
    log: Path,
    ready: Callable[[], T | None],
    environment: Mapping[str, str] | None = None,
    patience: float = 60.0,
) -> Iterator[tuple[int, T]]:
    """Its PID and what `ready` found, once that is something; ended, with what it started, when the block is left.

    BenchError with the end of its log if it ends or says nothing for `patience` seconds. It gets SIGTERM as well if
    the benchmark is killed.
    """
    prefix = ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*prefix, *(os.fspath(part) for part in command)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, **(environment or {})},
            start_new_session=True,  # Ctrl-C is for the benchmark, which ends its daemons in order
        )
    try:
        yield process.pid, _wait(name, process, log, ready, patience)
    finally:
        end(process)


def _wait(name: str, process: subprocess.Popen[bytes], log: Path, ready: Callable[[], T | None], patience: float) -> T:
    deadline = time.monotonic() + patience
    while True:
        found = ready()
        if found is not None:
            return found
        if process.poll() is not None or time.monotonic() > deadline:
            raise BenchError(f"{name} did not start: {log.read_text(errors='replace')[-1500:].strip()}")
        time.sleep(0.05)


def end(process: subprocess.Popen[bytes], patience: float = 10.0) -> None:
    """Asks three times, then kills; afterwards nothing that it had started is left either."""
    below = tree(process.pid)
    for _ in range(3):
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(patience)
            except subprocess.TimeoutExpired:
                continue
    if process.poll() is None:
        process.kill()
        process.wait()
    for pid, stat in below.items():
        text = _text(f"/proc/{pid}/stat")
        if pid != process.pid and text and parse_stat(text).started == stat.started:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""  # ended meanwhile
