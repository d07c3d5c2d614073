"""What came in comes out: every layer byte for byte, whatever is odd about its tar, and whatever archive it came in."""

from __future__ import annotations

import subprocess
import tarfile
from pathlib import Path

import pytest
from support import images, outlines
from support.images import directory, file, layer, link, opaque, symlink, whiteout

from streamer.stores.base import ArchiveKind
from streamer.stores.local.store import LocalStore

BIG = bytes(range(256)) * 9000


def sparse(format: str, folder: Path) -> bytes:
    """Sparse members as GNU tar writes them."""
    with open(folder / "sparse", "wb") as file:
        file.seek(3 << 20)
        file.write(b"data")
        file.truncate(9 << 20)
    command = ["tar", "-C", folder, "-S", "-c", "--format", format.split()[0], *format.split()[1:], "sparse"]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout


BASE = layer(directory("real/"), directory("etc/", mode=0o750, uid=7), symlink("way", "real"), file("gone", b"gone"))

ODD = {
    "empty": [layer()],
    "duplicate names": [layer(file("a", b"first"), file("a", b"second"), file("./a", b"third"), file("b", BIG))],
    "duplicate of a hard link": [layer(file("a", b"first"), link("b", "a"), file("a", b"second"), file("b", b"third"))],
    "directory with files replaced": [layer(directory("d/"), file("d/x", BIG), file("d/y", b"y"), file("d", b"file"))],
    "file replaced by directory": [layer(file("d", b"file"), directory("d/"), file("d/x", BIG))],
    "whiteout after the file": [layer(file("x", b"new"), whiteout("x"))],
    "whiteout before the file": [layer(file("x", b"old")), layer(whiteout("x"), file("x", b"new"))],
    "whiteout with content": [layer(file(".wh.x", b"a whiteout should be empty"), file("d/.wh.y", BIG))],
    "opaque after the files": [layer(file("d/x", b"old")), layer(directory("d/"), file("d/y", b"new"), opaque("d"))],
    "opaque with content": [layer(file("d/.wh..wh..opq", b"?"), file("d/y", b"new"))],
    "aufs bookkeeping": [layer(file(".wh..wh.plnk/1.2", b"linked"), file(".wh..wh.aufs", b"aufs"), file("a", b"a"))],
    "parent is a link below": [BASE, layer(file("way/new", b"through the link"), file("way/new", b"again"))],
    "parent is a link in the same layer": [
        layer(symlink("l", "d"), directory("d/"), file("l/x", BIG), link("y", "l/x"))
    ],
    "leading slash and dots": [
        layer(file("/abs", b"1"), file("./dot", b"2"), file("a/../b", b"3"), file("c//d", b"4"))
    ],
    "names that are not UTF-8": [
        layer(file("\udcff\udcfe", b"raw"), directory("\udce4/"), file("\udce4/\udcf6", b"x"))
    ],
    "long names": [layer(file("n" * 200 + "/" + "m" * 250, b"x"), file("/".join(["d" * 100] * 30), b"deep"))],
    "gnu long names": [layer(file("n" * 200 + "/" + "m" * 250, b"x"), format=tarfile.GNU_FORMAT)],
    "huge padding": [layer(file("a", b"a"), end=bytes(5 << 20))],
    "garbage after the end": [layer(file("a", b"a"), end=bytes(1024) + b"garbage" * 1000)],
    "mode without permissions": [
        layer(file("secret", b"s", mode=0), directory("closed/", mode=0), file("closed/x", b"x"))
    ],
    "root member": [layer(directory("./", mode=0o711, uid=3, gid=4, mtime=5), file("./a", b"a"))],
    "special files": [
        layer(
            images.node("dev/null"),
            images.node("dev/sda", tarfile.BLKTYPE, 8, 0),
            images.node("pipe", tarfile.FIFOTYPE),
            file("x", b"", pax_headers={"SCHILY.xattr.user.note": "hello"}),
        )
    ],
    "three layers": [BASE, layer(file("etc/passwd", b"root"), whiteout("gone")), layer(file("etc/passwd", b"other"))],
}


def only(files: images.Files) -> images.Bytes:
    return images.Bytes(images.pack(files))


async def check(store: LocalStore, made: images.MadeImage) -> None:
    image = await store.image(made.id)
    assert image.config.data == made.data
    assert [layer.diff_id for layer in image.layers] == made.diff_ids
    assert [layer.chain_id for layer in image.layers] == images.chain_ids(made.diff_ids)
    for stored, data in zip(image.layers, made.layers, strict=True):
        assert stored.assemble is not None
        assert stored.guard is not None
        assert b"".join(stored.assemble()) == data
        for start, stop in outlines.spans(data, 10):
            assert b"".join(stored.assemble(start, stop)) == data[start:stop], (start, stop)
        assert stored.size == len(data)
        stored.guard()


@pytest.mark.parametrize("name", ODD)
async def test_odd_layers_come_out_as_they_came_in(name: str, tmp_path: Path) -> None:
    made = images.image(*ODD[name], names=["odd:1"])
    async with LocalStore.open(tmp_path / "state") as store:
        await store.import_archive(only(images.docker(made)))
        await check(store, made)
    async with LocalStore.open(tmp_path / "state") as store:
        await check(store, made)


@pytest.mark.parametrize("format", ["gnu", *(f"pax --sparse-version={version}" for version in ("0.0", "0.1", "1.0"))])
async def test_sparse_members_come_out_as_they_came_in(format: str, tmp_path: Path) -> None:
    made = images.image(sparse(format, tmp_path), names=["sparse:1"])
    async with LocalStore.open(tmp_path / "state") as store:
        await store.import_archive(only(images.docker(made)))
        await check(store, made)
        unpacked = Path((await store.image("sparse:1")).layers[0].snapshot.lowers[0].decode()) / "sparse"
        assert unpacked.read_bytes() == (tmp_path / "sparse").read_bytes()
        assert unpacked.stat().st_blocks * 512 < 1 << 20


@pytest.mark.parametrize("compression", images.COMPRESS)
@pytest.mark.parametrize("form", [images.docker, images.oci, images.both])
async def test_every_form_in_every_compression(form: object, compression: str, tmp_path: Path) -> None:
    assert callable(form)
    made = images.image(*ODD["three layers"], names=["example.org/a/b:tag"], compression=compression)
    archive = images.pack(form(made), compression=compression, prefix="./")
    async with LocalStore.open(tmp_path / "state") as store:
        seen: list[int] = []
        report = await store.import_archive(images.Bytes(archive, most=7777), progress=seen.append)
        await check(store, made)
        assert (report.layers_new, report.layers_shared, report.bytes) == (3, 0, len(archive))
        assert seen == sorted(seen)
        assert seen[-1] == len(archive)
        assert [name.familiar for name in (await store.image("example.org/a/b:tag")).names] == ["example.org/a/b:tag"]


@pytest.mark.parametrize("first", ["manifest.json", "index.json", "oci-layout"])
async def test_documents_may_come_first_or_last(first: str, tmp_path: Path) -> None:
    made = images.image(*ODD["three layers"], names=["a:1"])
    async with LocalStore.open(tmp_path / "state") as store:
        await store.import_archive(images.Bytes(images.pack(images.both(made), first=[first])))
        await check(store, made)


@pytest.mark.parametrize("kind", list(ArchiveKind)[:3])
async def test_an_archive_that_is_both_can_be_read_as_either(kind: ArchiveKind, tmp_path: Path) -> None:
    made = images.image(*ODD["three layers"], names=["a:1", "b:2"])
    async with LocalStore.open(tmp_path / "state") as store:
        report = await store.import_archive(only(images.both(made)), kind=kind)
        assert sorted(name.familiar for name in report.images[0].names) == ["a:1", "b:2"]


@pytest.mark.parametrize("nested", [False, True])
async def test_layout_directory(nested: bool, tmp_path: Path) -> None:
    made = images.image(*ODD["three layers"], names=["a:1"], compression="gzip")
    layout = images.unpack_to(images.oci(made, nested=nested), tmp_path / "layout")
    async with LocalStore.open(tmp_path / "state") as store:
        report = await store.import_archive(layout)
        assert report.bytes > 0
        await check(store, made)


async def test_archive_by_its_path(tmp_path: Path) -> None:
    made = images.image(*ODD["three layers"], names=["a:1"])
    (tmp_path / "a.tar").write_bytes(images.pack(images.docker(made), compression="xz"))
    async with LocalStore.open(tmp_path / "state") as store:
        await store.import_archive(tmp_path / "a.tar")
        await check(store, made)


async def test_images_that_share_layers(tmp_path: Path) -> None:
    """The second archive has the shared layer as a symlink, as `docker save` of two images writes it."""
    one = images.image(BASE, layer(file("one", b"1")), names=["one:1"])
    two = images.image(BASE, layer(file("two", b"2")), layer(file("three", b"3")), names=["two:1"])
    files = images.docker(one, two)
    assert any(isinstance(content, images.Link) for content in files.values())
    async with LocalStore.open(tmp_path / "state") as store:
        report = await store.import_archive(only(files))
        # BASE is the bottom of both, so both stand on one layer of the store.
        assert (report.layers_new, report.layers_shared) == (4, 0)
        await check(store, one)
        await check(store, two)
        report = await store.import_archive(only(images.oci(two)))
        assert (report.layers_new, report.layers_shared) == (0, 3)
        assert len(list((tmp_path / "state" / "layers").iterdir())) == 4


async def test_same_layer_twice_in_one_image(tmp_path: Path) -> None:
    made = images.image(BASE, BASE, BASE, names=["a:1"])
    async with LocalStore.open(tmp_path / "state") as store:
        await store.import_archive(only(images.docker(made)))
        await check(store, made)


async def test_image_without_layers(tmp_path: Path) -> None:
    made = images.image(names=["empty:1"])
    async with LocalStore.open(tmp_path / "state") as store:
        await store.import_archive(only(images.docker(made)))
        assert (await store.image("empty:1")).layers == ()
        container = await store.create("empty:1")
        assert container.parent is None
        assert container.snapshot.lowers == ()


@pytest.mark.parametrize("kind", [ArchiveKind.AUTO, ArchiveKind.ROOTFS])
async def test_root_file_system(kind: ArchiveKind, tmp_path: Path) -> None:
    data = layer(directory("./"), directory("./bin/"), file("./bin/sh", BIG, mode=0o755), symlink("./lib", "usr/lib"))
    async with LocalStore.open(tmp_path / "state") as store:
        source = images.Bytes(images.COMPRESS["zstd"](data), most=1000)
        report = await store.import_archive(source, name="rootfs", kind=kind)
        image = await store.image("rootfs:latest")
        assert report.images == (image,)
        assert image.config.diff_ids == (images.sha256(data),)
        assert image.layers[0].assemble is not None
        assert b"".join(image.layers[0].assemble()) == data
        again = await store.import_archive(images.Bytes(data), name="again", kind=kind)
        assert (again.layers_new, again.layers_shared) == (0, 1)
        assert len(list((tmp_path / "state" / "layers").iterdir())) == 1


async def test_root_file_system_of_directories_alone(tmp_path: Path) -> None:
    data = layer(*(directory(f"d{number}/") for number in range(3000)))
    async with LocalStore.open(tmp_path / "state") as store:
        report = await store.import_archive(images.Bytes(data), name="dirs")
        assert report.images[0].config.diff_ids == (images.sha256(data),)


async def test_names_of_archives(tmp_path: Path) -> None:
    """`ref.name` alone names an image only if it is more than a tag; a given name replaces the archive's own."""
    made = images.image(BASE, names=["a:1"])
    async with LocalStore.open(tmp_path / "state") as store:
        for annotation, expected in [
            ({"io.containerd.image.name": "docker.io/library/x:2"}, ["x:2"]),
            ({"org.opencontainers.image.ref.name": "latest"}, []),
            ({"org.opencontainers.image.ref.name": "quay.io/a/b"}, ["quay.io/a/b:latest"]),
            ({"org.opencontainers.image.ref.name": "A:B:C"}, []),
        ]:
            files = images.oci(made)
            document = images.json.loads(files["index.json"])  # type: ignore[arg-type]
            document["manifests"][0]["annotations"] = annotation
            files["index.json"] = images.json.dumps(document).encode()
            report = await store.import_archive(only(files))
            assert [name.familiar for name in report.images[0].names] == expected
            await store.remove_image(made.id)
        report = await store.import_archive(only(images.docker(made)), name="given")
        assert [name.familiar for name in report.images[0].names] == ["given:latest"]


async def test_a_name_moves_to_the_new_image(tmp_path: Path) -> None:
    one, two = images.image(BASE, names=["a:1"]), images.image(layer(file("x", b"x")), names=["a:1"])
    async with LocalStore.open(tmp_path / "state") as store:
        await store.import_archive(only(images.docker(one)))
        report = await store.import_archive(only(images.docker(two)))
        assert report.moved == {"a:1": one.id}
        assert (await store.image("a:1")).id == two.id
        assert (await store.image(one.id)).names == ()
