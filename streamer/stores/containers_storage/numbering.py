"""How owners on disk are numbered inside of containers: in the stores of ordinary users, and with `--userns`.

The ranges are those of user_namespaces(7) and subuid(5).
"""

from __future__ import annotations

import pwd
from collections.abc import Iterator
from pathlib import Path

from streamer.mounts.mount import Ids, Range
from streamer.stores.containers_storage.records import ContainerRecord, IdMap, LayerRecord

_LINES = 1 << 20
_EVERYBODY = 1 << 32


def of_owner(uid: int, gid: int, subuid: Path, subgid: Path) -> Ids:
    """The user namespace that engines make for an ordinary user: root is the user, then the subordinate IDs."""
    names = {str(uid)}
    try:
        names.add(pwd.getpwuid(uid).pw_name)
    except KeyError:
        pass  # an owner of another machine: the number has to do
    return Ids(_with_subordinate(uid, subuid, names), _with_subordinate(gid, subgid, names))


def _with_subordinate(owner: int, path: Path, names: set[str]) -> tuple[Range, ...]:
    ranges: list[Range] = [(0, owner, 1)]
    inside = 1
    for first, count in _subordinate(path, names):
        ranges.append((inside, first, count))
        inside += count
    return tuple(ranges)


def _subordinate(path: Path, names: set[str]) -> Iterator[tuple[int, int]]:
    try:
        with open(path, "rb") as file:
            text = file.read(_LINES).decode("utf-8", "replace")
    except OSError:
        return
    for line in text.splitlines():
        name, _, numbers = line.strip().partition(":")
        first, _, count = numbers.partition(":")
        if name in names and _is_number(first) and _is_number(count) and int(count) > 0:
            yield int(first), int(count)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and int(text[:20]) < _EVERYBODY


def of_layers(layer: LayerRecord, owner: Ids | None) -> Ids | None:
    """For the layers of an image: shifted if they are a copy made for containers in a user namespace."""
    return _composed(layer.uids, layer.gids, owner) if layer.uids or layer.gids else owner


def of_container(
    container: ContainerRecord, layer: LayerRecord, below: LayerRecord | None, owner: Ids | None, *, shifting: bool
) -> Ids | None:
    """For a container on its layer. `below` is its image's topmost; `shifting` says that the driver itself shows owners
    shifted and keeps them as they were (fuse-overlayfs).

    With mounts that show an image's layers shifted, what the container wrote is shifted on disk and the rest is not.
    ValueError if the two cannot be told apart.
    """
    uids, gids = container.uids or layer.uids, container.gids or layer.gids
    if shifting or not (uids or gids):
        return owner
    written = _composed(uids, gids, owner)
    if below is None or below.uids or below.gids:
        return written
    plain = _composed(_unshifted(uids), _unshifted(gids), owner)
    return Ids(_apart(written.users, plain.users), _apart(written.groups, plain.groups))


def _unshifted(ranges: IdMap) -> IdMap:
    return tuple((inside, inside, count) for inside, _, count in ranges)


def _apart(written: tuple[Range, ...], plain: tuple[Range, ...]) -> tuple[Range, ...]:
    for inside, first, count in written:
        for other, second, many in plain:
            if first < second + many and second < first + count and inside - first != other - second:
                raise ValueError("its owners on disk overlap with those of its image")
    return (*written, *plain)


def _composed(uids: IdMap, gids: IdMap, owner: Ids | None) -> Ids:
    if owner is None:
        return Ids(uids, gids)
    return Ids(_through(uids, owner.users), _through(gids, owner.groups))


def _through(ranges: IdMap, owner: tuple[Range, ...]) -> tuple[Range, ...]:
    """The ranges with what they take for outside looked up in the owner's namespace."""
    found: list[Range] = []
    for inside, outside, count in ranges:
        for first, disk, many in owner:
            start, end = max(outside, first), min(outside + count, first + many)
            if start < end:
                found.append((inside + start - outside, disk + start - first, end - start))
    return tuple(found)
