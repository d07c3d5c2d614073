"""Archives written by other people's programs: imported, given back byte for byte, and the same tree when mounted."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from support.trees import snapshot

from streamer.mounts.mount import Mount
from streamer.mounts.table import MountTable
from streamer.stores.local.store import LocalStore

pytestmark = [
    pytest.mark.engine,
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="unpacking and mounting need root"),
]


def run(*command: str | Path, **options: object) -> None:
    subprocess.run([*map(os.fspath, command)], check=True, capture_output=True, **options)  # type: ignore[call-overload]


def need(*programs: str) -> None:
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


def made_by_umoci(folder: Path) -> Path:
    """An OCI layout of two layers, with deletions, links, devices and capabilities."""
    layout = folder / "layout"
    run("umoci", "init", "--layout", layout)
    run("umoci", "new", "--image", f"{layout}:one")
    run("umoci", "unpack", "--image", f"{layout}:one", folder / "a")
    tree = folder / "a" / "rootfs"
    for name in ("etc", "usr/bin", "gone", "dev"):
        (tree / name).mkdir(parents=True)
    (tree / "etc/passwd").write_text("root:x:0:0\n")
    (tree / "usr/bin/tool").write_bytes(os.urandom(700_000))
    os.link(tree / "usr/bin/tool", tree / "usr/bin/tool2")
    (tree / "bin").symlink_to("usr/bin")
    (tree / "gone/file").write_text("gone")
    (tree / "name-\udcff").write_text("not UTF-8")
    os.mknod(tree / "dev/null", 0o020666, os.makedev(1, 3))
    os.mkfifo(tree / "dev/pipe")
    (tree / ("long" * 30) / ("name" * 30)).mkdir(parents=True)
    run("umoci", "repack", "--image", f"{layout}:one", folder / "a")
    run("umoci", "unpack", "--image", f"{layout}:one", folder / "b")
    tree = folder / "b" / "rootfs"
    shutil.rmtree(tree / "gone")
    (tree / "etc/passwd").write_text("changed\n")
    os.chown(tree / "usr", 7, 8)
    run("umoci", "repack", "--image", f"{layout}:two", folder / "b")
    run("umoci", "unpack", "--image", f"{layout}:two", folder / "seen")
    return layout


def plain(tree: Path) -> dict[bytes, object]:
    return {path: what for path, what in snapshot(tree).items() if path not in (b"", b".")}


async def test_umoci_and_skopeo(tmp_path: Path) -> None:
    need("umoci", "skopeo")
    layout = made_by_umoci(tmp_path)
    run("skopeo", "copy", f"oci:{layout}:two", f"docker-archive:{tmp_path / 'docker.tar'}:example.org/two:x")
    run("skopeo", "copy", f"oci:{layout}:two", f"oci-archive:{tmp_path / 'oci.tar'}:two")
    run("gzip", "-k", tmp_path / "docker.tar")
    expected = plain(tmp_path / "seen" / "rootfs")
    ids = set()
    async with LocalStore.open(tmp_path / "state") as store:
        for source in (layout, tmp_path / "docker.tar", tmp_path / "docker.tar.gz", tmp_path / "oci.tar"):
            report = await store.import_archive(source)
            image = max(report.images, key=lambda image: len(image.layers))
            ids.add(image.layers[-1].chain_id)
            for layer in image.layers:
                assert layer.assemble is not None
                data = b"".join(layer.assemble())
                assert "sha256:" + hashlib.sha256(data).hexdigest() == layer.diff_id
                assert len(data) == layer.size
        assert len(ids) == 1
        assert (await store.image("example.org/two:x")).layers[-1].chain_id in ids
        top = image.layers[-1].snapshot
        with MountTable().lease(Mount(top.layers, top.userxattr)) as root:
            assert plain(Path(f"/proc/self/fd/{root}/.")) == expected


async def test_a_root_file_system_of_gnu_tar(tmp_path: Path) -> None:
    need("tar", "busybox")
    tree = tmp_path / "tree"
    (tree / "bin").mkdir(parents=True)
    shutil.copy(shutil.which("busybox") or "", tree / "bin/busybox")
    for name in ("sh", "ls", "cat"):
        (tree / "bin" / name).symlink_to("busybox")
    os.link(tree / "bin/busybox", tree / "bin/hard")
    for format in ("gnu", "pax", "ustar", "v7", "oldgnu"):
        run("tar", "-C", tree, "--format", format, "-cf", tmp_path / f"{format}.tar", ".")
    async with LocalStore.open(tmp_path / "state") as store:
        for format in ("gnu", "pax", "ustar", "v7", "oldgnu"):
            report = await store.import_archive(tmp_path / f"{format}.tar", name=f"{format}:1")
            layer = report.images[0].layers[0]
            assert layer.assemble is not None
            assert b"".join(layer.assemble()) == (tmp_path / f"{format}.tar").read_bytes()
            assert json.loads(report.images[0].config.data)["os"] == "linux"
