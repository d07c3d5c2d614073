"""How owners on disk are numbered inside of containers: in the stores of ordinary users, and with `--userns`.

The ranges are those of user_namespaces(7).
"""

from __future__ import annotations

from streamer.mounts.mount import Ids, Range
from streamer.stores.containers_storage.records import ContainerRecord, IdMap, LayerRecord


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
