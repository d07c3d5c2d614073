"""Writable overlays at a directory: what `streamer mount` and `streamer unmount` do."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from streamer.errors import Conflict, InvalidRequest, MountFailed, NotFound, StreamerError
from streamer.mounts.attach import attach_overlay, attached, attached_elsewhere, detach
from streamer.mounts.ways import Way

pytestmark = pytest.mark.root

SOURCE = b"streamer:%d" % os.getpid()

Opened = Callable[[tuple[bytes, ...]], list[int]]
Attach = Callable[..., bytes]


@pytest.fixture
def attach(tmp_path: Path, opened: Opened) -> Iterator[Attach]:
    """`attach(way)`: a writable overlay with `lower/seen` below, and its target; unmounted after the test."""
    target = os.fsencode(tmp_path / "target")

    def make(way: Way | None = None, *, target: bytes = target, userxattr: bool = False) -> bytes:
        for name in ("lower", "upper", "work", "target"):
            (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / "lower/seen").write_text("lower")
        lower, upper, work = opened(tuple(os.fsencode(tmp_path / name) for name in ("lower", "upper", "work")))
        attach_overlay(SOURCE, [lower], upper, work, target, userxattr=userxattr, way=way)
        return target

    yield make
    for left in attached().get(SOURCE, ()):
        detach(SOURCE, left, lazy=True)


@pytest.mark.parametrize("userxattr", [False, True])
@pytest.mark.parametrize("way", [None, *Way])
def test_writable_until_detached(way: Way | None, userxattr: bool, attach: Attach, tmp_path: Path) -> None:
    target = attach(way, userxattr=userxattr)
    assert attached()[SOURCE] == [target]
    assert os.listdir(target) == [b"seen"]
    assert os.statvfs(target).f_flag & 15 == os.ST_NOSUID | os.ST_NODEV
    (tmp_path / "target/new").write_text("new")
    (tmp_path / "target/seen").chmod(0o600)
    detach(SOURCE, target)
    assert SOURCE not in attached()
    assert os.listdir(target) == []
    # No metacopy: the changed file is whole in the upper, so that it is read without any mount.
    assert (tmp_path / "upper/seen").read_text() == "lower"
    assert (tmp_path / "upper/new").read_text() == "new"


def test_no_second_mount_over_the_first(attach: Attach) -> None:
    attach()
    with pytest.raises(Conflict, match=r"mounted at .*target' already"):
        attach()


def test_in_use(attach: Attach) -> None:
    target = attach()
    used = os.open(target, os.O_RDONLY)
    try:
        with pytest.raises(Conflict, match="in use"):
            detach(SOURCE, target)
        assert attached()[SOURCE] == [target]
        detach(SOURCE, target, lazy=True)
        assert SOURCE not in attached()
        assert os.listdir(used) == ["seen"]
    finally:
        os.close(used)


def test_an_overlay_of_somebody_else_stays(attach: Attach, tmp_path: Path) -> None:
    target = attach()
    with pytest.raises(NotFound, match="is not what is mounted"):
        detach(b"streamer:another", target)
    assert attached()[SOURCE] == [target]


def test_it_is_found_where_its_directory_was_moved_to(attach: Attach, tmp_path: Path) -> None:
    (tmp_path / "before/target").mkdir(parents=True)
    attach(target=os.fsencode(tmp_path / "before/target"))
    (tmp_path / "before").rename(tmp_path / "after wards")
    moved = os.fsencode(tmp_path / "after wards/target")
    assert attached()[SOURCE] == [moved]
    detach(SOURCE, moved)


def test_it_is_seen_in_another_mount_namespace(attach: Attach, tmp_path: Path) -> None:
    """One that another process has for itself, as a service with private mounts does."""
    target = attach()
    assert attached_elsewhere(b"streamer:nothing") is None
    with subprocess.Popen(
        ["unshare", "-m", "--propagation", "private", "sh", "-c", "echo ready; read line"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"ready\n"
        detach(SOURCE, target)
        assert SOURCE not in attached()
        assert attached_elsewhere(SOURCE) == other.pid
        other.communicate(b"\n")
    assert attached_elsewhere(SOURCE) is None


def test_only_overlays_are_detached(tmp_path: Path) -> None:
    target = tmp_path / "disk"
    target.mkdir()
    with pytest.raises(NotFound, match="is not what is mounted"):
        detach(SOURCE, os.fsencode(target))
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", target], check=True)
    try:
        with pytest.raises(NotFound, match="is not what is mounted"):
            detach(SOURCE, os.fsencode(target))
    finally:
        subprocess.run(["umount", target], check=True)


@pytest.mark.parametrize("way", [None, *Way])
def test_a_symlink_is_no_target(way: Way | None, attach: Attach, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "link"
    link.symlink_to("elsewhere")
    with pytest.raises(InvalidRequest, match="cannot be a mount point"):
        attach(way, target=os.fsencode(link))
    assert not os.path.ismount(tmp_path / "elsewhere")


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        (b"relative", InvalidRequest),
        (b"/", InvalidRequest),
        (b"/tmp/..", InvalidRequest),
        (b"/nowhere/at/all", NotFound),
        (b"/etc/passwd", InvalidRequest),
    ],
)
def test_bad_targets(target: bytes, kind: type[StreamerError], attach: Attach) -> None:
    with pytest.raises(kind):
        attach(target=target)
    assert SOURCE not in attached()
    with pytest.raises(kind):
        detach(SOURCE, target)


def test_nothing_below(tmp_path: Path) -> None:
    with pytest.raises(MountFailed, match="needs a layer below"):
        attach_overlay(SOURCE, [], 0, 0, os.fsencode(tmp_path), userxattr=False)


def test_without_the_privilege(as_nobody: Callable[..., str]) -> None:
    code = """
        from streamer.errors import NotPermitted
        from streamer.mounts.attach import attach_overlay
        drop()
        usr = os.open("/usr", os.O_PATH)
        try:
            attach_overlay(b"mine", [usr], usr, usr, b"/mnt", userxattr=False)
        except NotPermitted as error:
            print(error)
    """
    assert "needs CAP_SYS_ADMIN" in as_nobody(code)
