"""Narrowing by path: a mistyped path is never a clean, empty archive; immutable trees may not lose files."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from pathlib import Path

import pytest
from support import exports, images
from support.stores import DirectoryStore

from streamer import native
from streamer.changeset import walk
from streamer.errors import InvalidRequest, NotFound, SourceChanged
from streamer.export import pack
from streamer.export.container import plan_container, plan_rootfs
from streamer.export.diff import plan_diff
from streamer.export.exporter import exporter
from streamer.export.layer import plan_layer
from streamer.export.plan import Options
from streamer.mounts.mount import Snapshot
from streamer.oci import config as configs
from streamer.stores.base import Container, Image, Layer
from streamer.stores.local.store import LocalStore


@pytest.fixture
def box(tmp_path: Path) -> Container:
    upper, base = tmp_path / "upper", tmp_path / "base"
    (upper / "etc").mkdir(parents=True)
    (upper / "etc/changed").write_text("new")
    (base / "etc").mkdir(parents=True)
    (base / "etc/same").write_text("same")
    (base / "gone").write_text("gone")
    os.mknod(upper / "gone", stat.S_IFCHR)
    return DirectoryStore().add("box", upper, base)


async def body(container: Container, path: bytes) -> bytes:
    async with exporter() as exports, exports.open(plan_diff(container, Options(path=path))) as stream:
        return b"".join([chunk async for chunk in stream])


@pytest.mark.root
async def test_paths_of_a_changeset(box: Container) -> None:
    assert b"etc/changed" in await body(box, b"/etc")
    assert b"etc/changed" in await body(box, b"./etc//changed")
    assert b".wh.gone" in await body(box, b"gone")
    assert await body(box, b"etc/same") == bytes(1024), "there, and unchanged: nothing to say"
    for path in (b"nope", b"etc/nope", b"etc/changed/x"):
        with pytest.raises(NotFound, match="there is no"):
            await body(box, path)
    for path in (b"..", b"etc/../gone"):
        with pytest.raises(InvalidRequest, match=r"holds '\.\.'"):
            await body(box, path)


@pytest.mark.parametrize("live", [True, False])
@pytest.mark.parametrize("when", ["listed", "looked at"])
async def test_only_a_container_may_lose_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str, live: bool
) -> None:
    (tmp_path / "one").write_text("1" * 200_000)  # large enough not to be read by the compiled walk
    (tmp_path / "two").write_text("2")
    opened = pack.content.open_regular
    if when == "looked at":
        monkeypatch.setattr(native, "available", lambda: False)

    def vanishing(node):  # type: ignore[no-untyped-def]
        if node.name == (b"one" if when == "listed" else b"two"):
            os.unlink(tmp_path / "two")
        return opened(node)

    monkeypatch.setattr(pack.content, "open_regular", vanishing)
    if live:
        plan = plan_container(DirectoryStore().add("box", tmp_path), Options())
    else:
        config = configs.for_rootfs("sha256:" + "0" * 64, "2026-01-01T00:00:00Z", "test")
        layer = Layer("memory", config.diff_ids[0], config.diff_ids[0], Snapshot("overlay", (bytes(tmp_path),)))
        plan = plan_rootfs(Image("memory", config, (), (layer,)), "image", Options())
    async with exporter() as exports:
        if live:
            async with exports.open(plan) as stream:
                archive = b"".join([chunk async for chunk in stream])
            assert b"one" in archive
            assert b"two" not in archive
            assert stream.report.vanished == 1
        else:
            with pytest.raises(SourceChanged):
                async with exports.open(plan) as stream:
                    async for _ in stream:
                        pass


@pytest.mark.root
async def test_an_image_with_whiteouts_of_nothing(tmp_path: Path) -> None:
    """The kernel's overlay lists those in a directory of one layer only, and does not find them."""
    made = images.image(
        images.layer(images.file("base", b"b"), images.whiteout("at-the-root")),
        images.layer(images.directory("own/"), images.whiteout("own/gone"), images.file("own/kept", b"k")),
        images.layer(images.directory("own2/"), images.opaque("own2"), images.whiteout("own2/sub/gone")),
        names=["odd:1"],
    )
    async with LocalStore.open(tmp_path / "state") as store:
        await store.import_archive(images.Bytes(images.pack(images.docker(made))))
        data = await exports.body(plan_rootfs(await store.image("odd:1"), "odd:1", Options()))
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert archive.getnames() == ["base", "own", "own/kept", "own2", "own2/sub"]


@pytest.mark.root
async def test_a_container_with_whiteouts_of_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What vanishes beside them is still counted."""
    upper, base = tmp_path / "upper", tmp_path / "base"
    (upper / "merged").mkdir(parents=True)
    (upper / "merged/here").touch()
    (base / "own").mkdir(parents=True)
    (base / "merged").mkdir()
    (base / "own/kept").touch()
    os.mknod(base / "own/gone", stat.S_IFCHR)
    for name in ("merged/removed", "own2"):
        (upper / name).touch()
    listing = walk.listing

    def removing(*given):  # type: ignore[no-untyped-def]
        names = listing(*given)
        if given[1] == b"merged":
            (upper / "merged/removed").unlink()
        return names

    monkeypatch.setattr(walk, "listing", removing)
    monkeypatch.setattr(native, "available", lambda: False)
    async with (
        exporter() as opened,
        opened.open(plan_container(DirectoryStore().add("box", upper, base), Options())) as stream,
    ):
        data = b"".join([chunk async for chunk in stream])
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert archive.getnames() == ["merged", "merged/here", "own", "own/kept", "own2"]
    assert stream.report.vanished == 1


@pytest.mark.root
@pytest.mark.parametrize("live", [True, False])
async def test_a_changeset_may_lose_files_of_a_container_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, live: bool
) -> None:
    upper, base = tmp_path / "upper", tmp_path / "base"
    for folder in (upper, base):
        folder.mkdir()
    for name in ("one", "two"):
        (upper / name).touch()
    listing = walk.listing

    def removing(*given):  # type: ignore[no-untyped-def]
        names = listing(*given)
        (upper / "two").unlink()
        return names

    monkeypatch.setattr(walk, "listing", removing)
    monkeypatch.setattr(native, "available", lambda: False)
    if live:
        plan = plan_diff(DirectoryStore().add("box", upper, base), Options())
    else:
        layers = (bytes(upper), bytes(base))
        none = "sha256:" + "0" * 64
        plan = plan_layer(
            Layer("memory", none, none, Snapshot("overlay", layers), Snapshot("overlay", layers[1:])), Options()
        )
    async with exporter() as exports:
        if live:
            async with exports.open(plan) as stream:
                archive = b"".join([chunk async for chunk in stream])
            assert b"one" in archive and b"two" not in archive
            assert stream.report.vanished == 1
        else:
            with pytest.raises(SourceChanged, match="its layer is being removed"):
                async with exports.open(plan) as stream:
                    async for _ in stream:
                        pass
