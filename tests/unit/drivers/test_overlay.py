"""The overlay driver's fast path: what a container's upper directory says, without comparing trees."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from streamer.changeset.change import Kind
from streamer.changeset.content import open_regular
from streamer.drivers.overlay import OverlayDriver
from streamer.errors import NotFound, NotPermitted, Unsupported
from streamer.mounts import kernel
from streamer.mounts.mount import Mount, Snapshot
from streamer.mounts.table import MountTable
from streamer.mounts.ways import Way

A, B, C = b"/a", b"/b", b"/c"


@pytest.mark.parametrize("userxattr", [False, True])
def test_mounts_every_layer(userxattr: bool) -> None:
    snapshot = Snapshot("overlay", (B, C), A, userxattr)
    assert OverlayDriver().mounts(snapshot) == (Mount((A, B, C), userxattr),)


@pytest.mark.parametrize(
    ("snapshot", "parent", "comparable"),
    [
        (Snapshot("overlay", (B, C), A), Snapshot("overlay", (B, C)), True),
        (Snapshot("overlay", (A, B, C)), Snapshot("overlay", (B, C)), True),
        (Snapshot("overlay", (C,), B), Snapshot("overlay", (), C), True),
        (Snapshot("overlay", (), A), None, True),
        (Snapshot("overlay", (A,)), Snapshot("overlay", ()), True),
        (Snapshot("overlay", ()), None, False),
        (Snapshot("overlay", (B,), A), None, False),
        (Snapshot("overlay", (B, C), A), Snapshot("overlay", (C,)), False),
        (Snapshot("overlay", (B, C), A), Snapshot("overlay", (C, B)), False),
        (Snapshot("overlay", (B,), A), Snapshot("overlay", (B,), userxattr=True), False),
        (Snapshot("overlay", (B,), A), Snapshot("directory", (B,)), False),
    ],
)
def test_comparable(snapshot: Snapshot, parent: Snapshot | None, comparable: bool) -> None:
    assert OverlayDriver().comparable(snapshot, parent) is comparable


@pytest.fixture
def marked(tmp_path: Path) -> tuple[Snapshot, Snapshot]:
    """A container in which `old` was renamed to `new`, and `file` got another mode, without either being copied."""
    for name in ("lower", "upper", "work"):
        (tmp_path / name).mkdir()
    (tmp_path / "lower/old").mkdir()
    (tmp_path / "lower/old/below").write_text("below")
    (tmp_path / "lower/file").write_text("data")
    lower, upper, work = (os.open(tmp_path / name, os.O_PATH) for name in ("lower", "upper", "work"))
    try:
        with kernel.Context(b"overlay") as context:
            for key, directory in ((b"lowerdir+", lower), (b"upperdir", upper), (b"workdir", work)):
                Way.STRINGS.add(context, key, directory)
            for key in (b"metacopy", b"redirect_dir"):
                context.string(key, b"on")
            mount = context.mounted(0)
        os.chmod(f"/proc/self/fd/{mount}/file", 0o600)
        os.rename("old", "new", src_dir_fd=mount, dst_dir_fd=mount)
        os.close(mount)
    finally:
        for descriptor in (lower, upper, work):
            os.close(descriptor)
    parent = Snapshot("overlay", (os.fsencode(tmp_path / "lower"),))
    return Snapshot("overlay", parent.layers, os.fsencode(tmp_path / "upper")), parent


@pytest.mark.root
@pytest.mark.parametrize("possible", [True, False])
def test_redirects_and_metacopies_are_read_from_below(
    marked: tuple[Snapshot, Snapshot], monkeypatch: pytest.MonkeyPatch, possible: bool
) -> None:
    if not possible:
        monkeypatch.setattr(MountTable, "possible", lambda _, mount: len(mount.layers) < 2)
    table = MountTable()
    data = {}
    with OverlayDriver().changes(table, *marked) as found:
        kinds = []
        for change in found:
            kinds.append((change.kind, change.path))
            if change.node is not None and change.path in (b"file", b"new/below"):
                file = open_regular(change.node)
                data[change.path] = os.read(file, 100)
                os.close(file)
    assert sorted(kinds, key=lambda one: one[1]) == [
        (Kind.MODIFY, b"file"),
        (Kind.ADD, b"new"),
        (Kind.ADD, b"new/below"),
        (Kind.DELETE, b"old"),
    ]
    assert data == {b"file": b"data", b"new/below": b"below"}
    assert table.statistics().leases == 0


@pytest.mark.root
@pytest.mark.parametrize("mark", ["redirect", "metacopy"])
def test_they_are_refused_by_name_where_anybody_can_write_them(tmp_path: Path, mark: str) -> None:
    for name in ("upper/d", "lower/d"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "upper/f").write_text("data")
    where = {"redirect": "upper/d", "metacopy": "upper/f"}[mark]
    os.setxattr(tmp_path / where, f"user.overlay.{mark}", b"/etc")
    parent = Snapshot("overlay", (os.fsencode(tmp_path / "lower"),), userxattr=True)
    snapshot = Snapshot("overlay", parent.layers, os.fsencode(tmp_path / "upper"), userxattr=True)
    table = MountTable()
    with pytest.raises(Unsupported, match=f"'{where[-1]}'"), OverlayDriver().changes(table, snapshot, parent) as found:
        list(found)
    assert table.statistics().leases == 0


@pytest.mark.root
def test_marks_that_this_process_does_not_see(
    marked: tuple[Snapshot, Snapshot], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamer.drivers.overlay.trusted_visible", lambda: False)
    table = MountTable()
    snapshot, parent = marked
    with pytest.raises(NotPermitted, match="CAP_SYS_ADMIN"), OverlayDriver().changes(table, snapshot, parent):
        pytest.fail("opened")
    with pytest.raises(NotPermitted, match="CAP_SYS_ADMIN"), OverlayDriver().tree(table, snapshot):
        pytest.fail("opened")
    with OverlayDriver().tree(table, parent) as tree:
        assert tree.has(b"old/below")


@pytest.mark.root
def test_whiteouts_of_a_single_layer_are_not_its_files(tmp_path: Path) -> None:
    os.mknod(tmp_path / "gone", stat.S_IFCHR)
    (tmp_path / "f").touch()
    with OverlayDriver().tree(MountTable(), Snapshot("overlay", (bytes(tmp_path),))) as tree:
        assert [node.path for node in tree.nodes()] == [b"", b"f"]
        assert not tree.has(b"gone")
        with pytest.raises(NotFound):
            tree.status(b"gone")


@pytest.mark.root
def test_a_layer_over_several_others(tmp_path: Path) -> None:
    for layer, name in (("top", "same"), ("middle", "same"), ("bottom", "under"), ("top", "new")):
        (tmp_path / layer).mkdir(exist_ok=True)
        (tmp_path / layer / name).write_text(layer)
    os.mknod(tmp_path / "top/under", 0o020000, 0)
    layers = tuple(os.fsencode(tmp_path / name) for name in ("top", "middle", "bottom"))
    snapshot, parent = Snapshot("overlay", layers), Snapshot("overlay", layers[1:])
    for possible in (True, False):
        table = MountTable()
        if not possible:
            table.possible = lambda mount: len(mount.layers) < 2  # type: ignore[method-assign]
        with OverlayDriver().changes(table, snapshot, parent) as found:
            assert [(change.kind, change.path) for change in found] == [
                (Kind.ADD, b"new"),
                (Kind.MODIFY, b"same"),
                (Kind.DELETE, b"under"),
            ]
            assert table.statistics().leases == 3
        assert table.statistics().leases == 0


@pytest.mark.root
def test_user_marks_need_no_mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MountTable, "possible", lambda _, mount: len(mount.layers) < 2)
    for name in ("upper/d", "lower/d"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "lower/d/hidden").touch()
    os.setxattr(tmp_path / "upper/d", "user.overlay.opaque", b"y")
    parent = Snapshot("overlay", (os.fsencode(tmp_path / "lower"),), userxattr=True)
    snapshot = Snapshot("overlay", parent.layers, os.fsencode(tmp_path / "upper"), userxattr=True)
    with OverlayDriver().changes(MountTable(), snapshot, parent) as found:
        assert [(change.kind, change.path, change.opaque) for change in found] == [(Kind.MODIFY, b"d", True)]
