"""The registry and the directory driver."""

from __future__ import annotations

import pytest

from streamer import drivers
from streamer.changeset.layers import Layers
from streamer.drivers import trees
from streamer.drivers.base import DiffDriver
from streamer.drivers.directory import DirectoryDriver
from streamer.drivers.fuse import FuseOverlayDriver
from streamer.drivers.overlay import OverlayDriver
from streamer.errors import NotFound, StoreDamaged, Unsupported
from streamer.mounts.mount import Mount, Snapshot


@pytest.mark.parametrize(
    ("name", "kind", "diffs"),
    [
        ("overlay", OverlayDriver, True),
        ("directory", DirectoryDriver, False),
        ("fuse-overlay", FuseOverlayDriver, True),
    ],
)
def test_by_name(name: str, kind: type, diffs: bool) -> None:
    driver = drivers.of(Snapshot(name, ()))
    assert type(driver) is kind
    assert isinstance(driver, DiffDriver) is diffs


def test_unknown() -> None:
    with pytest.raises(
        Unsupported, match="no driver 'btrfs'; snapshots of these can be read: directory, fuse-overlay, overlay"
    ):
        drivers.of(Snapshot("btrfs", ()))


@pytest.mark.parametrize(
    ("snapshot", "layers"),
    [
        (Snapshot("directory", (b"/a",)), (b"/a",)),
        (Snapshot("directory", (), b"/a"), (b"/a",)),
        (Snapshot("directory", ()), ()),
    ],
)
def test_one_directory(snapshot: Snapshot, layers: tuple[bytes, ...]) -> None:
    assert DirectoryDriver().mounts(snapshot) == (Mount(layers),)


def test_more_than_one_directory() -> None:
    with pytest.raises(StoreDamaged, match="one directory, not 2"):
        DirectoryDriver().mounts(Snapshot("directory", (b"/a",), b"/b"))


def test_nothing_of_fuse_is_mounted() -> None:
    with pytest.raises(Unsupported, match="can only be compared"):
        FuseOverlayDriver().mounts(Snapshot("fuse-overlay", (b"/a",)))


def test_the_status_of_nothing_at_all() -> None:
    with Layers([]) as layers, pytest.raises(NotFound):
        trees.Merged(layers).status(b"")
