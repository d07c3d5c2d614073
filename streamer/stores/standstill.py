"""Whether a container that is paused stood still all the time, as the kernel has it: the same for every engine.

Engines tell what a container is, not what it was: one that somebody resumed and paused again looks as if nothing had
been. But a frozen control group (cgroups(7)) uses no CPU time, and one that was let go for a moment has.

This needs the container's control group where it is on the host, below /sys/fs/cgroup, and its process in /proc. In a
container of its own (without `--pid host`, `--cgroupns host` and the host's /sys/fs/cgroup), with a runtime that uses
no freezer (gVisor, Kata), or for a group that is not named after its container, there is nothing to look at: then
only what the engine remembers is compared.
"""

from __future__ import annotations

import os
import re
import select
import time
import weakref
from pathlib import Path

SETTLES = 0.5
"""Seconds that the last process may take to stand still once the engine says that they do: crun does not wait."""

_NOTIFIED = 30
"""Milliseconds after which a change of a group is told for certain: the kernel holds one back that comes within 10
after another, and its clock may tick every 10 only."""

_PROC = Path("/proc")
_CGROUPS = Path("/sys/fs/cgroup")
_SMALL = 64 << 10


class Standstill:
    """One control group, frozen when this was made; `ran` tells whether it was thawed since. What it has open is
    closed with the last reference to it."""

    def __init__(self, usage: Path, events: Path | None) -> None:
        """OSError and ValueError if that cannot be watched."""
        self._usage = usage
        self._events: int | None = None
        if events is not None:
            self._events = os.open(events, os.O_RDONLY | os.O_CLOEXEC)
            weakref.finalize(self, os.close, self._events)
            os.pread(self._events, _SMALL, 0)
            _notified(self._events)  # of being frozen, that is
            os.pread(self._events, _SMALL, 0)  # what comes after this is news
        self._used = self._cpu_time()

    def ran(self) -> bool:
        """Whether any of its processes ran since; also if the group is gone."""
        try:
            if self._cpu_time() == self._used:
                return False
        except (OSError, ValueError):
            return True
        if self._events is None:
            return True
        # In cgroup v2 a frozen process that gets a signal (of a timer, say) takes some microseconds of the kernel to
        # go on standing still. That is no change of the group; being thawed is.
        return _notified(self._events) or b"frozen 1" not in os.pread(self._events, _SMALL, 0)

    def _cpu_time(self) -> int:
        """Nanoseconds in cgroup v1, microseconds in v2."""
        return int(self._usage.read_text().split("usage_usec ")[-1].split()[0])


def _notified(events: int) -> bool:
    """Whether the kernel told of a change of this file since it was last read (cgroups(7))."""
    changes = select.poll()
    changes.register(events, select.POLLPRI)
    return bool(changes.poll(_NOTIFIED))


def standstill(container: str, pid: object, proc: Path = _PROC, cgroups: Path = _CGROUPS) -> Standstill | None:
    """Of the paused container whose first process is `pid`; None if there is none, or nothing to be seen of it.

    Waits until the last process stands still, at most for SETTLES seconds.
    """
    if type(pid) is not int or pid <= 0:
        return None
    try:
        paths = control_groups((proc / str(pid) / "cgroup").read_text(errors="surrogateescape"))
    except OSError:
        return None
    deadline = time.monotonic() + SETTLES
    while True:
        try:
            if "freezer" in paths and of_container(container, paths["freezer"]):
                found = _version_1(container, paths, cgroups)
            else:
                found = _version_2(container, paths.get("", "/"), cgroups)
        except (OSError, ValueError):
            return None
        if found is not None or time.monotonic() > deadline:
            return found
        time.sleep(0.005)


def control_groups(text: str) -> dict[str, str]:
    """The path of each controller in /proc/PID/cgroup; that of cgroup v2 has the empty name."""
    found = {}
    for line in text.splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        found.update(dict.fromkeys(controllers.split(","), path))
    return found


def of_container(container: str, path: str) -> list[str]:
    """Of the groups on the way down `path`, those from the container's own on; empty if none is named after it.

    The name is the ID, or `libpod-ID`, `docker-ID.scope`, `cri-containerd-ID.scope` and the like.
    """
    named = re.compile(rf"(?:.*[-:])?{re.escape(container)}(?:\.scope)?")
    parts = path.strip("/").split("/")
    tops = [index for index, part in enumerate(parts) if named.fullmatch(part)]
    if not tops or ".." in parts:
        return []
    return ["/".join(parts[: index + 1]) for index in range(tops[-1], len(parts))]


def _version_1(container: str, paths: dict[str, str], cgroups: Path) -> Standstill | None:
    state = (cgroups / "freezer" / paths["freezer"].lstrip("/") / "freezer.state").read_text().strip()
    counted = of_container(container, paths.get("cpuacct", ""))
    if not counted:
        raise ValueError("no CPU time of its own")
    return Standstill(cgroups / "cpuacct" / counted[0] / "cpuacct.usage", None) if state == "FROZEN" else None


def _version_2(container: str, path: str, cgroups: Path) -> Standstill | None:
    """The topmost group of the container that is frozen: its processes may be in several below."""
    root = cgroups if (cgroups / "cgroup.controllers").exists() else cgroups / "unified"
    groups = of_container(container, path)
    if not groups:
        raise ValueError("no group of its own")
    for group in groups:
        events = root / group / "cgroup.events"
        if "frozen 1" in events.read_text().splitlines():
            return Standstill(root / group / "cpu.stat", events)
    return None
