"""What containerd says to mount, as snapshots."""

from __future__ import annotations

import pytest

from streamer.errors import StoreDamaged, Unsupported
from streamer.mounts.mount import Ids, Snapshot
from streamer.stores.containerd import mounts
from streamer.stores.containerd.api.types_pb2 import Mount

LOWERS = "lowerdir=/s/2/fs:/s/1/fs"


@pytest.mark.parametrize(
    ("mount", "active", "parents", "expected"),
    [
        (Mount(type="overlay", options=["index=off", LOWERS]), False, True, ((b"/s/2/fs", b"/s/1/fs"), None)),
        (
            Mount(type="overlay", options=["workdir=/s/3/work", "upperdir=/s/3/fs", LOWERS]),
            True,
            True,
            ((b"/s/2/fs", b"/s/1/fs"), b"/s/3/fs"),
        ),
        (Mount(type="bind", source="/s/1/fs", options=["ro", "rbind"]), False, False, ((b"/s/1/fs",), None)),
        (Mount(type="bind", source="/s/1/fs", options=["rw", "rbind"]), True, False, ((), b"/s/1/fs")),
    ],
)
def test_overlays(mount: Mount, active: bool, parents: bool, expected: tuple[tuple[bytes, ...], bytes | None]) -> None:
    found = mounts.snapshot([mount], "overlayfs", "it", active=active, parents=parents)
    assert found == Snapshot("overlay", *expected)


def test_whole_trees() -> None:
    mount = Mount(type="bind", source="/s/7")
    for snapshotter, parents in (("native", False), ("native", True), ("another", True)):
        found = mounts.snapshot([mount], snapshotter, "it", active=False, parents=parents)
        assert found == Snapshot("directory", (b"/s/7",))
    assert mounts.snapshot([mount], "native", "it", active=True, parents=True) == Snapshot("directory", (), b"/s/7")


def test_marks_of_ordinary_users() -> None:
    mount = Mount(type="overlay", options=["userxattr", LOWERS])
    assert mounts.snapshot([mount], "overlayfs", "it", active=False, parents=True).userxattr


def test_owners() -> None:
    """Layers keep the owners of their images, a container's files have those of its range."""
    options = [LOWERS, "upperdir=/s/3/fs", "uidmap=0:100000:65536", "gidmap=0:200000:1000,1000:300000:10"]
    found = mounts.snapshot([Mount(type="overlay", options=options)], "overlayfs", "it", active=True, parents=True)
    assert found.ids == Ids(
        ((0, 100000, 65536), (0, 0, 100000)), ((0, 200000, 1000), (1000, 300000, 10), (0, 0, 200000))
    )
    assert found.ids.inside(100005, 300001) == (5, 1001)
    assert found.ids.inside(5, 42) == (5, 42)
    assert found.ids.inside(165536, 201000) == (65534, 65534)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ([Mount(type="erofs", source="/s/1/layer.erofs")], "'erofs'|erofs"),
        ([Mount(type="ext4", source="/dev/mapper/x")], "ext4"),
        ([Mount(type="format/overlay", options=[LOWERS])], "format/overlay"),
        ([Mount(type="erofs"), Mount(type="overlay", options=[LOWERS])], "erofs \\+ overlay"),
        ([], "nothing"),
    ],
)
def test_other_mounts_are_refused_by_name(given: list[Mount], named: str) -> None:
    with pytest.raises(Unsupported, match=named):
        mounts.snapshot(given, "special", "it", active=False, parents=True)


@pytest.mark.parametrize(
    "mount",
    [
        Mount(type="overlay"),
        Mount(type="overlay", options=["lowerdir=relative:/s/1/fs"]),
        Mount(type="overlay", options=[LOWERS, "upperdir=../x"]),
        Mount(type="bind"),
        Mount(type="overlay", options=[LOWERS, "uidmap=0:1"]),
        Mount(type="overlay", options=[LOWERS, "gidmap=0:-1:5"]),
        Mount(type="overlay", options=[LOWERS, "gidmap=0:²:5"]),
    ],
)
def test_mounts_that_make_no_sense(mount: Mount) -> None:
    with pytest.raises(StoreDamaged, match="it"):
        mounts.snapshot([mount], "overlayfs", "it", active=False, parents=True)
