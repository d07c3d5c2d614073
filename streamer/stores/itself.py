"""Whether a container is the one that this very process runs in: who has to resume it would stand still with it."""

from __future__ import annotations

import re
from pathlib import Path

from streamer.mounts.mount import Snapshot
from streamer.stores.standstill import control_groups, of_container

_PROC = Path("/proc")
_OF_THE_ENGINE = ("/etc/hostname", "/etc/hosts", "/etc/resolv.conf")
"""What engines bind into a container from a directory that has its ID."""

_TELLS_APART = 3
"""So many names at the end of a layer's path are the same in every mount namespace, and another layer has others."""


def is_itself(container: str, snapshot: Snapshot, proc: Path = _PROC) -> bool:
    """By this process's control group, its root file system, and the files that engines bind into a container.

    The group alone does not do: in a control group namespace of its own it is `/`.
    """
    try:
        groups = control_groups((proc / "self/cgroup").read_text(errors="surrogateescape"))
        mounts = (proc / "self/mountinfo").read_text(errors="surrogateescape")
    except OSError:
        return False
    if any(of_container(container, groups.get(name, "")) for name in ("freezer", "")):
        return True
    upper = None
    bound = False
    for root, point, kind, options in map(_mount, mounts.splitlines()):
        if point == "/":
            upper = _upper(options) if kind == "overlay" else None
        elif point in _OF_THE_ENGINE and container in root.split("/"):
            bound = True
    if upper is not None and snapshot.driver == "overlay" and snapshot.upper is not None:
        # More certain than the bound files, which are another container's where both share its network.
        return _end(upper) == _end(snapshot.upper.decode(errors="surrogateescape"))[-len(_end(upper)) :]
    return bound


def _mount(line: str) -> tuple[str, str, str, str]:
    """Root, mount point, file system and its options, of a line of mountinfo (proc_pid_mountinfo(5))."""
    head, _, tail = line.partition(" - ")
    _, _, _, root, point, *_ = (*head.split(" "), "", "", "", "", "")
    kind, _, options, *_ = (*tail.split(" "), "", "", "")
    return _plain(root), _plain(point), kind, options


def _plain(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def _upper(options: str) -> str | None:
    for option in options.split(","):
        name, _, value = option.partition("=")
        if name == "upperdir":
            return _plain(value)
    return None


def _end(path: str) -> list[str]:
    return path.strip("/").split("/")[-_TELLS_APART:]
