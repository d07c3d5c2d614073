"""What `streamer doctor` says about mounting: plain data, one finding a line, each with what follows from it."""

from __future__ import annotations

import errno
import resource
from collections.abc import Iterator
from dataclasses import dataclass

from streamer.mounts.features import Features, probe
from streamer.mounts.overlay import LAYERS_MAX
from streamer.mounts.ways import Way

_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH = 1, 2

_SPEED = {
    Way.DESCRIPTORS: "layers are handed to the kernel as descriptors",
    Way.STRINGS: "layers are handed to the kernel through /proc, because it is older than 6.13",
    Way.THREAD: "each is made in a thread of its own, because the kernel is older than 6.8",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """`name` is stable and for programs; `follows` is one sentence for people, true for this value of `ok`."""

    name: str
    ok: bool
    follows: str


def findings(features: Features | None = None) -> tuple[Finding, ...]:
    """Everything about mounting that can be better or worse on this machine for this process, most important first.

    `features` defaults to what `probe` finds. Opens no store and leaves nothing mounted.
    """
    found = features or probe()
    return tuple(_findings(found))


def _findings(features: Features) -> Iterator[Finding]:
    yield _overlays(features, "overlay", userxattr=False)
    yield _overlays(features, "overlay-userxattr", userxattr=True)
    if _capable(_CAP_DAC_READ_SEARCH) or _capable(_CAP_DAC_OVERRIDE):
        yield Finding("read-any-file", True, "Files of every owner and mode can be read.")
    else:
        follows = "Without CAP_DAC_READ_SEARCH an export fails at the first file that this user may not read."
        yield Finding("read-any-file", False, follows)
    if features.openat2:
        yield Finding("openat2", True, "Paths inside containers are resolved by the kernel in one call.")
    else:
        follows = "Without openat2 (Linux 5.6, or refused by seccomp) paths are resolved one component at a time."
        yield Finding("openat2", False, follows)
    yield _open_files()


def _overlays(features: Features, name: str, *, userxattr: bool) -> Finding:
    whose = "stores of ordinary users" if userxattr else "root's stores"
    way = features.way(userxattr=userxattr)
    if way is not None:
        return Finding(name, True, f"Overlays of {whose} can be mounted, detached and seen by nobody; {_SPEED[way]}.")
    refusals = features.refusals(userxattr=userxattr)
    if any(one.errno in (errno.EPERM, errno.EACCES) for one in refusals):
        why = "this process lacks CAP_SYS_ADMIN"
    else:
        why = "; ".join(dict.fromkeys(one.strerror or str(one) for one in refusals))
    rest = (
        "everything is read from the layers themselves, more slowly"
        if userxattr
        else "images and layers work without; containers and root file systems of several layers only where this "
        "process may at least see trusted.* attributes"
    )
    return Finding(name, False, f"No overlay of {whose} can be mounted ({why}): {rest}.")


def _open_files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = soft == resource.RLIM_INFINITY or soft >= 4 * LAYERS_MAX
    if enough:
        return Finding("open-files", True, f"{soft if soft >= 0 else 'Any number of'} files may be open at once.")
    follows = (
        f"Only {soft} files may be open at once (at most {hard}): opening a container takes one for each of its up to "
        f"{LAYERS_MAX} layers for a moment, so several at once may be refused."
    )
    return Finding("open-files", False, follows)


def _capable(capability: int) -> bool:
    with open("/proc/self/status", "rb") as status:
        for line in status:
            if line.startswith(b"CapEff:"):
                return bool(int(line.split()[1], 16) >> capability & 1)
    return False
