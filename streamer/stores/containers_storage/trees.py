"""Where the files of layers lie on disk, and whether they can be read there as they are."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass

from streamer.errors import StoreDamaged
from streamer.mounts.mount import Ids, Snapshot
from streamer.stores.containers_storage.places import Place
from streamer.stores.containers_storage.records import LayerRecord

_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OVERRIDE = "user.containers.override_stat"


@dataclass(frozen=True, slots=True)
class Tree:
    """The directories of one layer, topmost first. `packed` says why nothing in them has the name and content that a
    container sees; `disguised` why owners and modes are not what it sees. Empty where all is well."""

    directories: tuple[bytes, ...]
    packed: str = ""
    disguised: str = ""

    @property
    def refusal(self) -> str:
        return self.packed or self.disguised


class Forest:
    """The trees of layers as they were first found: nothing of a layer changes before it is removed."""

    def __init__(self) -> None:
        self._trees: dict[tuple[Place, str], Tree] = {}

    def trees(self, stack: Sequence[LayerRecord]) -> list[Tree]:
        """See `tree`."""
        return [self._tree(layer) for layer in stack]

    def _tree(self, layer: LayerRecord) -> Tree:
        key = layer.place, layer.id
        found = self._trees.get(key)
        # A link may lead elsewhere by now, and is looked at each time.
        if found is None or not _is_directory(layer.place.absolute(_files(layer))):
            found = self._trees[key] = tree(layer)
        return found


def tree(layer: LayerRecord) -> Tree:
    """StoreDamaged, NotPermitted, SourceFailed naming what is not there."""
    place, relative = layer.place, layer.place.tree(layer.id)
    folder = _opened(place, relative)
    try:
        if place.driver == "vfs":
            return Tree((place.absolute(relative),))
        diff = _diff(place, relative, folder)
        packed = "a composefs layer: its files lie under their digests" if _exists("composefs-data", folder) else ""
        disguised = "a layer made with force_mask: its owners and modes are kept aside" if _is_masked(folder) else ""
        return Tree((diff, *_further(place, relative, folder)), packed, disguised)
    finally:
        os.close(folder)


def _opened(place: Place, relative: str) -> int:
    try:
        return place.open(relative, _FOLDER)
    except OSError as error:
        raise place.failure(relative, error) from error


def _diff(place: Place, relative: str, folder: int) -> bytes:
    name = f"{relative}/diff"
    try:
        status = os.stat("diff", dir_fd=folder, follow_symlinks=False)
        if stat.S_ISLNK(status.st_mode):
            return _elsewhere(place, name, os.fsencode(os.readlink("diff", dir_fd=folder)), status)
    except OSError as error:
        raise place.failure(name, error) from error
    if not stat.S_ISDIR(status.st_mode):
        raise StoreDamaged(f"{place.shown(name)} is not a directory")
    return place.absolute(name)


def _elsewhere(place: Place, name: str, target: bytes, status: os.stat_result) -> bytes:
    """Where an additional layer store keeps the files (`additionallayerstores`): a link to an absolute path.

    Another user's link could lead to whatever only we may read.
    """
    path = os.path.realpath(target)
    if not target.startswith(b"/") or status.st_uid not in (0, os.geteuid()):
        raise StoreDamaged(f"{place.shown(name)} is a symbolic link that is not followed")
    if not os.path.isdir(path):
        raise StoreDamaged(f"{place.shown(name)} is a symbolic link to a directory that is not there")
    return path


def _further(place: Place, relative: str, folder: int) -> list[bytes]:
    """`diff1`, `diff2` …: further directories that belong to the layer, each below the one before."""
    found: list[bytes] = []
    while _exists(name := f"diff{len(found) + 1}", folder):
        found.append(place.absolute(f"{relative}/{name}"))
    return found


def _exists(name: str, folder: int) -> bool:
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except OSError:
        return False


def _files(layer: LayerRecord) -> str:
    relative = layer.place.tree(layer.id)
    return relative if layer.place.driver == "vfs" else f"{relative}/diff"


def _is_directory(path: bytes) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError:
        return False


def _is_masked(folder: int) -> bool:
    try:
        os.getxattr(f"/proc/self/fd/{folder}/diff", _OVERRIDE)
    except OSError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Kind:
    """What a store's layers have in common: what reads them (a snapshot's driver), and whose marks they have."""

    driver: str
    userxattr: bool = False

    def snapshot(self, trees: Sequence[Tree], ids: Ids | None, *, writable: bool = False) -> Snapshot:
        """Of a stack of layers, topmost first; the topmost is a container's own if `writable`."""
        layers = [directory for each in trees for directory in each.directories]
        if self.driver == "directory":
            del layers[1:]  # a vfs layer is a copy of everything below it
        upper = layers.pop(0) if writable else None
        return Snapshot(self.driver, tuple(layers), upper, self.userxattr, ids)


def kind(place: Place, owner: int) -> Kind:
    """`owner` is the user the store belongs to. Only root can write overlay's trusted marks."""
    if place.driver == "vfs":
        return Kind("directory")
    try:
        program = place.read("overlay/.has-mount-program", 64).strip() == b"true"
    except FileNotFoundError:
        program = False
    return Kind("fuse-overlay", owner != 0) if program else Kind("overlay", owner != 0)
