"""Which directory is the data-root, which graph driver keeps it, and whose its owners are."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from streamer.errors import StoreDamaged, StreamerError, Unsupported
from streamer.mounts.mount import Ids
from streamer.stores import subids
from streamer.stores.docker.files import Files, failed

DRIVERS = ("overlay2", "vfs")
"""The graph drivers that are read, in the order in which dockerd itself would choose one."""
_GRAPH_DRIVERS = (*DRIVERS, "aufs", "btrfs", "devicemapper", "fuse-overlayfs", "overlay", "windowsfilter", "zfs")
_REMAPPED = re.compile(r"([0-9]{1,10})\.([0-9]{1,10})")
_ETC = Path("/etc")


@dataclass(frozen=True, slots=True)
class DataRoot:
    """`ids` and `userxattr` as in `Snapshot`; `rootless` if the engine runs as an ordinary user."""

    files: Files
    driver: str
    ids: Ids | None = None
    rootless: bool = False

    @property
    def metadata(self) -> str:
        return f"image/{self.driver}"

    def tree(self, identity: str) -> str:
        """The directory of a layer or container as the graph driver keeps it (IDs are checked by who reads them)."""
        return f"overlay2/{identity}/diff" if self.driver == "overlay2" else f"vfs/dir/{identity}"


def locate(name: str, root: Path, etc: Path = _ETC) -> DataRoot:
    """The data-root of store `name` at `root`, or that of its remapped engine (`userns-remap`), ROOT/UID.GID.

    Where both are there, ROOT itself is meant if it holds any image or container: an engine that was started once
    before it was told to remap leaves an empty one behind.

    Unsupported where another graph driver or containerd keeps the images; NotPermitted; StoreDamaged.
    """
    files = Files(os.fsencode(os.path.realpath(root)))
    driver = _driver(files)
    below = _remapped(files)
    if driver is None or (below and not _holds_anything(files, driver)):
        if len(below) > 1:
            raise Unsupported(f"store {name} has several data-roots ({', '.join(below)}); say which one is meant")
        if below:
            files = Files(files.at(below[0]))
            driver = _driver(files)
    if driver is None:
        raise _unknown(name, files)
    return _owned(files, driver, etc)


def uses_containerd(root: Path) -> bool:
    """Whether the engine at `root` keeps its images in containerd (the default of new installations from Docker 29 on),
    so that there is nothing here to read but names of containers."""
    files = Files(os.fsencode(os.path.abspath(root)))
    try:
        return _driver(files) is None and not _remapped(files) and _in_containerd(files)
    except StreamerError:
        return False


def _in_containerd(files: Files) -> bool:
    if any(name in _GRAPH_DRIVERS for name in files.names("image")):
        return False
    if files.directory("rootfs") or files.directory("containerd/daemon/io.containerd.metadata.v1.bolt"):
        return True
    for identity in files.names("containers"):
        try:
            driver = (files.mapping(f"containers/{identity}/config.v2.json") or {}).get("Driver")
        except StoreDamaged:
            continue
        if isinstance(driver, str) and driver not in _GRAPH_DRIVERS:
            return True
    return False


def _driver(files: Files) -> str | None:
    for driver in DRIVERS:
        if files.directory(f"image/{driver}/imagedb"):
            return driver
    return None


def _remapped(files: Files) -> list[str]:
    """The remapped roots below, in the order of their numbers."""
    found = [each for each in files.names("") if _REMAPPED.fullmatch(each) and _driver(Files(files.at(each)))]
    return sorted(found, key=lambda each: [int(number) for number in each.split(".")])


def _holds_anything(files: Files, driver: str) -> bool:
    return bool(files.names(f"image/{driver}/imagedb/content/sha256") or files.names("containers"))


def _unknown(name: str, files: Files) -> StreamerError:
    if _in_containerd(files):
        return Unsupported(
            f"the engine of store {name} keeps its images in containerd; "
            f"read them there: --store {name}=containerd:SOCKET#moby (/run/containerd/containerd.sock, "
            "or /run/docker/containerd/containerd.sock where dockerd runs its own)"
        )
    others = sorted(set(files.names("image")) & set(_GRAPH_DRIVERS) - set(DRIVERS))
    if others:
        known = " and ".join(DRIVERS)
        return Unsupported(f"store {name} is kept by the graph driver {others[0]}; those of {known} can be read")
    return StoreDamaged(f"store {name} is not the data-root of a Docker engine: image/overlay2 is missing")


def _owned(files: Files, driver: str, etc: Path) -> DataRoot:
    found = _REMAPPED.fullmatch(os.fsdecode(os.path.basename(files.path)))
    if found:
        return DataRoot(files, driver, subids.remapped(int(found[1]), int(found[2]), etc))
    try:
        status = os.stat(files.path)
    except OSError as error:
        raise failed("the data-root", error) from error
    if status.st_uid != 0:
        return DataRoot(
            files, driver, subids.rootless(status.st_uid, status.st_gid, etc / "subuid", etc / "subgid"), rootless=True
        )
    return DataRoot(files, driver)
