"""What a container does now, from what its engine leaves beside it: podman and CRI-O have nobody to ask for it."""

from __future__ import annotations

import os
import re
from pathlib import Path

from streamer.errors import StreamerError
from streamer.stores.containers_storage.places import Place

_PROC = Path("/proc")
_CGROUPS = Path("/sys/fs/cgroup")
_NUMBER = re.compile(r"[1-9][0-9]{0,9}")
_SMALL = 64 << 10


def status(identity: str, graph: Place, run: Place | None, proc: Path = _PROC, cgroups: Path = _CGROUPS) -> str:
    """`running`, `paused`, `exited` or `created`; empty where it cannot be told without a run root.

    A process in another PID namespace than ours looks as if it had ended.
    """
    data = f"{graph.driver}-containers/{identity}/userdata"
    # The runtime's configuration is written when a container is first started.
    if not _exists(graph, f"{data}/config.json"):
        return "created"
    if run is None:
        return ""
    pid = _read(run, f"{data}/pidfile").strip()
    if _NUMBER.fullmatch(pid) is None or not _is_of(identity, pid, proc):
        return "exited"
    return "paused" if _is_frozen(pid, proc, cgroups) else "running"


def _is_of(identity: str, pid: str, proc: Path) -> bool:
    """Whether the process is the container's, and none that got its number afterwards: by its cgroup, or else by the
    monitor that started it (conmon, whose arguments name the container)."""
    if identity in _text(proc / pid / "cgroup"):
        return True
    fields = _text(proc / pid / "stat").rpartition(")")[2].split()
    parent = fields[1] if len(fields) > 1 else "0"
    return parent not in ("0", "1") and identity in _text(proc / parent / "cmdline")


def _is_frozen(pid: str, proc: Path, cgroups: Path) -> bool:
    """By cgroup v2's `cgroup.events`, or the freezer of v1 (cgroups(7))."""
    for line in _text(proc / pid / "cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        inside = path.lstrip("/")
        if "freezer" in controllers.split(","):
            if _text(cgroups / "freezer" / inside / "freezer.state").strip() in ("FROZEN", "FREEZING"):
                return True
        elif not controllers and "frozen 1" in _text(cgroups / inside / "cgroup.events").splitlines():
            return True
    return False


def _exists(place: Place, relative: str) -> bool:
    try:
        os.close(place.open(relative, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def _read(place: Place, relative: str) -> str:
    try:
        return place.read(relative, _SMALL).decode("ascii", "replace")
    except (FileNotFoundError, StreamerError):
        return ""


def _text(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return file.read(_SMALL).decode("utf-8", "replace")
    except OSError:
        return ""
