"""From the mounts that containerd answers with (its `mount.Mount`) to a snapshot of ours; nothing is mounted.

An active snapshot's mounts would write to the container's own directory: only the directories are taken from them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from streamer.errors import StoreDamaged, Unsupported
from streamer.mounts.mount import Ids, Range, Snapshot
from streamer.stores.containerd.api.types_pb2 import Mount

_WHOLE_TREES = frozenset({"native"})
"""Snapshotters with a copy of the whole tree for each snapshot."""


def snapshot(mounts: Sequence[Mount], snapshotter: str, what: str, *, active: bool, parents: bool) -> Snapshot:
    """What the mounts show. `active`: it is a container's, with a writable directory; `parents`: it stands on others.

    Unsupported, naming the type, for everything but directories and overlays of directories.
    """
    kinds = [mount.type for mount in mounts]
    if kinds == ["overlay"]:
        return _overlay(mounts[0].options, what)
    if kinds == ["bind"]:
        source = _path(mounts[0].source, what)
        # An overlay of a single directory is that directory.
        driver = "directory" if parents or snapshotter in _WHOLE_TREES else "overlay"
        return Snapshot(driver, (), source) if active else Snapshot(driver, (source,))
    raise Unsupported(
        f"cannot read {what}: snapshotter {snapshotter!r} keeps it as {' + '.join(kinds) or 'nothing'},"
        " and only directories and overlays of directories can be read"
    )


def _overlay(options: Sequence[str], what: str) -> Snapshot:
    values = dict(option.partition("=")[::2] for option in options)
    lowers = tuple(_path(lower, what) for lower in values.get("lowerdir", "").split(":") if lower)
    upper = _path(values["upperdir"], what) if "upperdir" in values else None
    if not lowers and upper is None:
        raise StoreDamaged(f"the mount of {what} names no directory")
    return Snapshot("overlay", lowers, upper, "userxattr" in values, _ids(values, what))


def _path(text: str, what: str) -> bytes:
    if not os.path.isabs(text):
        raise StoreDamaged(f"the mount of {what} names a directory without an absolute path")
    # Leases follow no links; containerd's root may well lie behind one.
    return os.fsencode(os.path.realpath(text))


def _ids(values: dict[str, str], what: str) -> Ids | None:
    if "uidmap" not in values and "gidmap" not in values:
        return None
    return Ids(_ranges(values.get("uidmap", ""), what), _ranges(values.get("gidmap", ""), what))


def _ranges(text: str, what: str) -> tuple[Range, ...]:
    """`inside:outside:count,…`. Layers are shared with containers without a user namespace and mapped only while they
    are mounted (mount_setattr(2), MOUNT_ATTR_IDMAP), a container's own files have owners of the host: so owners below
    those of every range are what they are."""
    ranges: list[Range] = []
    for line in text.split(",") if text else []:
        numbers = line.split(":")
        if len(numbers) != 3 or not all(number.isascii() and number.isdecimal() for number in numbers):
            raise StoreDamaged(f"the mount of {what} has an ID mapping that is none")
        ranges.append((int(numbers[0]), int(numbers[1]), int(numbers[2])))
    plain = min((outside for _, outside, _ in ranges), default=1 << 32)
    return (*ranges, (0, 0, plain)) if plain else tuple(ranges)
