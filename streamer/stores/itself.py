"""Whether a container is the one that this very process runs in: who has to resume it would stand still with it."""

from __future__ import annotations

import os
from pathlib import Path

from streamer.mounts import mountinfo
from streamer.mounts.mount import Snapshot
from streamer.stores.standstill import control_groups, of_container

_PROC = Path("/proc")
_OF_THE_ENGINE = (b"/etc/hostname", b"/etc/hosts", b"/etc/resolv.conf")
"""What engines bind into a container from a directory that has its ID."""

_TELLS_APART = 3
"""So many names at the end of a layer's path are the same in every mount namespace, and another layer has others."""


def is_itself(container: str, snapshot: Snapshot, proc: Path = _PROC) -> bool:
    """By this process's control group, its root file system, and the files that engines bind into a container.

    The group alone does not do: in a control group namespace of its own it is `/`.
    """
    try:
        groups = control_groups((proc / "self/cgroup").read_text(errors="surrogateescape"))
        mounts = list(mountinfo.seen(proc=proc))
    except OSError:
        return False
    if any(of_container(container, groups.get(name, "")) for name in ("freezer", "")):
        return True
    upper = None
    bound = False
    for each in mounts:
        if each.point == b"/":
            upper = _upper(each.options) if each.kind == b"overlay" else None
        elif each.point in _OF_THE_ENGINE and os.fsencode(container) in each.root.split(b"/"):
            bound = True
    if upper is not None and snapshot.driver == "overlay" and snapshot.upper is not None:
        # More certain than the bound files, which are another container's where both share its network.
        return _end(upper) == _end(snapshot.upper)[-len(_end(upper)) :]
    return bound


def _upper(options: bytes) -> bytes | None:
    for option in options.split(b","):
        name, _, value = option.partition(b"=")
        if name == b"upperdir":
            return mountinfo.plain(value)
    return None


def _end(path: bytes) -> list[bytes]:
    return path.strip(b"/").split(b"/")[-_TELLS_APART:]
