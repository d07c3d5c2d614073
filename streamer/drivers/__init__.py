"""Turning what a store keeps on disk into something to read: one driver for each way of keeping it."""

from __future__ import annotations

from streamer.drivers.base import Driver
from streamer.drivers.directory import DirectoryDriver
from streamer.drivers.fuse import FuseOverlayDriver
from streamer.drivers.overlay import OverlayDriver
from streamer.errors import Unsupported
from streamer.mounts.mount import Snapshot

_DRIVERS: dict[str, Driver] = {
    "overlay": OverlayDriver(),
    "directory": DirectoryDriver(),
    "fuse-overlay": FuseOverlayDriver(),
}


def of(snapshot: Snapshot) -> Driver:
    """The driver that `snapshot.driver` names; Unsupported where there is none."""
    try:
        return _DRIVERS[snapshot.driver]
    except KeyError:
        known = ", ".join(sorted(_DRIVERS))
        raise Unsupported(f"there is no driver {snapshot.driver!r}; snapshots of these can be read: {known}") from None
