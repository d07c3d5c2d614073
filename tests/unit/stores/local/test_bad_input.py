"""What is wrong is refused by name and leaves nothing: no row, no file, no name that moved."""

from __future__ import annotations

import json
import os
import random
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import hostile, images
from support.images import directory, file, layer, link, symlink

from streamer.errors import (
    DigestMismatch,
    InvalidArchive,
    InvalidReference,
    InvalidRequest,
    LimitExceeded,
    NotFound,
    SourceFailed,
    StorageFull,
    StreamerError,
    Unsupported,
)
from streamer.stores.base import ArchiveKind
from streamer.stores.local.store import LocalStore
from streamer.tar.source import Limits

BIG = random.Random(7).randbytes(300_000)
GOOD = images.image(layer(file("a", b"a"), file("big", BIG)), layer(file("b", b"b")), names=["good:1"])


def contents(state: Path) -> list[str]:
    """Every path of the store but the database and its lock."""
    found = (str(path.relative_to(state)) for path in state.rglob("*"))
    return sorted(path for path in found if not path.startswith(("streamer.db", "lock")))


EMPTY = ["containers", "layers", "staging", "trash"]


async def refused(
    state: Path, source: Any, error: type[StreamerError] = InvalidArchive, **options: Any
) -> StreamerError:
    async with LocalStore.open(state) as store:
        before = contents(state)
        with pytest.raises(error) as raised:
            await store.import_archive(images.Bytes(source) if isinstance(source, bytes) else source, **options)
        assert contents(state) == before == EMPTY
        assert not (await store.images()).items
        assert not (await store.layers()).items
    return raised.value


@pytest.mark.parametrize("compression", images.COMPRESS)
@pytest.mark.parametrize("form", [images.docker, images.oci])
async def test_truncated_anywhere(form: Any, compression: str, tmp_path: Path) -> None:
    archive = images.pack(form(GOOD), compression=compression)
    offsets = {
        *range(40),
        *range(512, len(archive), max(len(archive) // 20, 1)),
        len(archive) - 1,
        len(archive) - 513,
    }
    async with LocalStore.open(tmp_path) as store:
        for offset in sorted(offset for offset in offsets if offset < len(archive)):
            with pytest.raises(InvalidArchive):
                await store.import_archive(images.Bytes(archive[:offset]), kind="docker-archive")
        assert not (await store.images()).items
    assert contents(tmp_path) == EMPTY


async def test_truncated_root_file_system(tmp_path: Path) -> None:
    data = layer(directory("a/"), file("a/b", BIG))
    async with LocalStore.open(tmp_path) as store:
        for offset in (0, 1, 511, 512, 1024, 2000, len(data) - 1024, len(data) - 512, len(data) - 1):
            with pytest.raises(InvalidArchive, match=r"truncated|empty"):
                await store.import_archive(images.Bytes(data[:offset]), name="x")
    assert contents(tmp_path) == EMPTY


@pytest.mark.parametrize("form", [images.docker, images.oci])
async def test_one_bit_flipped(form: Any, tmp_path: Path) -> None:
    """Whatever bit: refused, or (a bit nobody reads, as a mode in the outer tar) the very same image."""
    archive = images.pack(form(GOOD))
    chance = random.Random(11)
    refusals = 0
    async with LocalStore.open(tmp_path) as store:
        for _ in range(120):
            flipped = bytearray(archive)
            flipped[chance.randrange(len(archive))] ^= 1 << chance.randrange(8)
            try:
                report = await store.import_archive(images.Bytes(bytes(flipped)))
            except StreamerError:
                refusals += 1
                assert contents(tmp_path) == EMPTY
            else:
                for image in report.images:
                    assert [layer.diff_id for layer in image.layers] == GOOD.diff_ids
                    await store.remove_image(image.id, force=True)
    assert refusals > 60


async def test_source_that_fails(tmp_path: Path) -> None:
    archive = images.pack(images.docker(GOOD))
    error = await refused(tmp_path, images.Broken(archive, 100_000, SourceFailed("the wire was cut")), SourceFailed)
    assert str(error) == "the wire was cut"


def edited(change: Callable[[images.Files], None], form: Any = images.docker) -> bytes:
    files = form(GOOD)
    change(files)
    return images.pack(files)


def with_json(name: str, change: Callable[[Any], None]) -> Callable[[images.Files], None]:
    def edit(files: images.Files) -> None:
        data = files[name]
        assert isinstance(data, bytes)
        value = json.loads(data)
        change(value)
        files[name] = json.dumps(value).encode()

    return edit


def without(name: str) -> Callable[[images.Files], None]:
    return lambda files: files.pop(name) and None


def put(name: str, content: bytes | images.Link) -> Callable[[images.Files], None]:
    return lambda files: files.update({name: content})


LAYER = next(name for name in images.docker(GOOD) if name.endswith("layer.tar"))
CONFIG = next(name for name in images.docker(GOOD) if len(name) == 69 and name.endswith(".json"))
BLOB = f"blobs/sha256/{images.encoded(GOOD.layers[0])}"
OCI_CONFIG = f"blobs/sha256/{images.encoded(GOOD.data)}"


def nest(depth: int, fan_out: int = 1) -> Callable[[images.Files], None]:
    """Indexes of indexes above the image."""

    def edit(files: images.Files) -> None:
        data = files["index.json"]
        assert isinstance(data, bytes)
        for _ in range(depth):
            inner = {"mediaType": images.OCI_INDEX, "digest": images.sha256(data), "size": len(data)}
            files[f"blobs/sha256/{images.encoded(data)}"] = data
            data = json.dumps({"schemaVersion": 2, "manifests": [inner] * fan_out}).encode()
        files["index.json"] = data

    return edit


def config(**changes: Any) -> Callable[[images.Files], None]:
    """Another configuration under a name that promises nothing."""

    def edit(files: images.Files) -> None:
        files["config.json"] = json.dumps({**json.loads(GOOD.data), **changes}).encode()
        with_json("manifest.json", lambda value: value[0].update(Config="config.json"))(files)

    return edit


DOCKER: dict[str, tuple[Callable[[images.Files], None], type[StreamerError], str]] = {
    "no manifest": (without("manifest.json"), InvalidArchive, "manifest.json"),
    "manifest is not JSON": (put("manifest.json", b"[{"), InvalidArchive, "manifest.json"),
    "manifest is not UTF-8": (put("manifest.json", b"\xff\xfe"), InvalidArchive, "manifest.json"),
    "manifest nests without end": (put("manifest.json", b"[" * 200_000), InvalidArchive, "manifest.json"),
    "manifest is huge": (put("manifest.json", b" " * (5 << 20)), InvalidArchive, "manifest.json"),
    "manifest is empty": (put("manifest.json", b"[]"), InvalidArchive, "manifest.json"),
    "manifest is an object": (put("manifest.json", b"{}"), InvalidArchive, "manifest.json"),
    "config missing": (without(CONFIG), InvalidArchive, CONFIG),
    "config is another": (put(CONFIG, GOOD.data + b" "), DigestMismatch, CONFIG),
    "config is not JSON": (put(CONFIG, b"x"), InvalidArchive, CONFIG),
    "too few diff IDs": (config(rootfs={"diff_ids": GOOD.diff_ids[:1]}), InvalidArchive, "2 layers"),
    "too many diff IDs": (config(rootfs={"diff_ids": GOOD.diff_ids * 2}), InvalidArchive, "2 layers"),
    "diff IDs swapped": (config(rootfs={"diff_ids": GOOD.diff_ids[::-1]}), DigestMismatch, "layer.tar"),
    "diff ID leads outside": (config(rootfs={"diff_ids": ["sha256:../../etc", ""]}), InvalidArchive, "diff_ids"),
    "diff IDs are numbers": (config(rootfs={"diff_ids": [1, 2]}), InvalidArchive, "diff_ids"),
    "layer missing": (without(LAYER), InvalidArchive, "layer.tar"),
    "layer is another": (put(LAYER, layer(file("x"))), DigestMismatch, "layer.tar"),
    "layer is no tar": (put(LAYER, b"no tar at all" * 100), InvalidArchive, ""),
    "layer is empty": (put(LAYER, b""), InvalidArchive, ""),
    "layer is a link outside": (put(LAYER, images.Link("../../../../etc/passwd")), InvalidArchive, "layer.tar"),
    "layer is an absolute link": (put(LAYER, images.Link("/etc/passwd")), InvalidArchive, "layer.tar"),
    "layer is a link to itself": (put(LAYER, images.Link("layer.tar")), InvalidArchive, "layer.tar"),
    "layer's path leads outside": (
        with_json("manifest.json", lambda value: value[0].update(Layers=["../../x", "/etc/passwd"])),
        InvalidArchive,
        "../../x",
    ),
    "name is none": (
        with_json("manifest.json", lambda value: value[0].update(RepoTags=["UPPER:x"])),
        InvalidArchive,
        "UPPER",
    ),
    "name is a digest": (
        with_json("manifest.json", lambda value: value[0].update(RepoTags=[f"a@{GOOD.id}"])),
        InvalidArchive,
        "digest",
    ),
    "saved by an old docker": (
        lambda files: (files.pop("manifest.json"), put("repositories", b"{}")(files))[1],
        Unsupported,
        "1.10",
    ),
}


@pytest.mark.parametrize("name", DOCKER)
async def test_docker_archive(name: str, tmp_path: Path) -> None:
    change, error, message = DOCKER[name]
    found = await refused(tmp_path, edited(change), error, kind="docker-archive")
    assert message in str(found)


def blob_of(name: str) -> Callable[[images.Files], None]:
    """A blob whose content is not what its name says."""
    return put(name, b"other content")


OCI: dict[str, tuple[Callable[[images.Files], None], type[StreamerError], str]] = {
    "no oci-layout": (without("oci-layout"), InvalidArchive, "oci-layout"),
    "oci-layout of another version": (put("oci-layout", b'{"imageLayoutVersion": "2.0.0"}'), Unsupported, "version"),
    "no index": (without("index.json"), InvalidArchive, "manifest.json"),
    "index is a manifest": (put("index.json", b'{"config": {}, "layers": []}'), InvalidArchive, "index.json"),
    "index is both": (put("index.json", b'{"manifests": [], "layers": []}'), InvalidArchive, "index.json"),
    "index is empty": (put("index.json", b'{"manifests": []}'), InvalidArchive, "index.json"),
    "digest leads outside": (
        with_json("index.json", lambda value: value["manifests"][0].update(digest="sha256:../../../etc/passwd")),
        InvalidArchive,
        "digest",
    ),
    "size is wrong": (
        with_json("index.json", lambda value: value["manifests"][0].update(size=7)),
        InvalidArchive,
        "bytes",
    ),
    "size is negative": (
        with_json("index.json", lambda value: value["manifests"][0].update(size=-1)),
        InvalidArchive,
        "size",
    ),
    "manifest missing": (
        with_json("index.json", lambda value: value["manifests"][0].update(digest="sha256:" + "0" * 64)),
        InvalidArchive,
        "missing",
    ),
    "media type contradicts": (
        with_json("index.json", lambda value: value["manifests"][0].update(mediaType=images.OCI_INDEX)),
        InvalidArchive,
        "media type",
    ),
    "blob is not what it is called": (blob_of(BLOB), DigestMismatch, BLOB),
    "config is not what it is called": (blob_of(OCI_CONFIG), DigestMismatch, OCI_CONFIG),
    "layer missing": (without(BLOB), InvalidArchive, BLOB),
    "index too deep": (nest(4), LimitExceeded, "deeper"),
    "index fans out": (nest(3, 60), Unsupported, "several"),
}


@pytest.mark.parametrize("name", OCI)
async def test_oci_archive(name: str, tmp_path: Path) -> None:
    change, error, message = OCI[name]
    found = await refused(tmp_path, edited(change, images.oci), error, kind="auto" if name == "no index" else "oci")
    assert message in str(found)


@pytest.mark.parametrize("name", [name for name in OCI if name != "no index"])
async def test_oci_layout_directory(name: str, tmp_path: Path) -> None:
    change, error, _ = OCI[name]
    files = images.oci(GOOD)
    change(files)
    # Other sizes are seen before any digest is.
    error = InvalidArchive if error is DigestMismatch else error
    await refused(tmp_path / "state", images.unpack_to(files, tmp_path / "layout"), error)


async def test_layout_with_symlinks_reads_nothing_else(tmp_path: Path) -> None:
    """GHSA-r3h2-rgqf-9hv9: a blob that is a symlink must not read the host's files."""
    for number, name in enumerate([BLOB, OCI_CONFIG, "index.json", "oci-layout"]):
        files = images.oci(GOOD)
        content = files[name]
        assert isinstance(content, bytes)
        outside = tmp_path / f"outside-{number}"
        outside.write_bytes(content)
        files[name] = images.Link(str(outside))
        error = await refused(tmp_path / "state", images.unpack_to(files, tmp_path / f"layout-{number}"))
        assert error.details["member"] == name
    layout = images.unpack_to(images.oci(GOOD), tmp_path / "moved")
    (layout / "blobs").rename(tmp_path / "blobs")
    (layout / "blobs").symlink_to(tmp_path / "blobs")
    await refused(tmp_path / "state", layout)


async def test_layout_with_a_fifo_does_not_hang(tmp_path: Path) -> None:
    layout = images.unpack_to(images.oci(GOOD), tmp_path / "layout")
    (layout / BLOB).unlink()
    os.mkfifo(layout / BLOB)
    await refused(tmp_path / "state", layout)


async def test_blob_that_changes_under_a_layout(tmp_path: Path) -> None:
    made = images.image(*GOOD.layers, compression="gzip", names=["a:1"])
    layout = images.unpack_to(images.oci(made), tmp_path / "layout")
    blob = layout / f"blobs/sha256/{images.encoded(made.blobs()[0])}"
    data = bytearray(blob.read_bytes())
    data[4] ^= 1  # gzip's time: the same tar, another blob
    blob.write_bytes(data)
    await refused(tmp_path / "state", layout, DigestMismatch)


OUTER: dict[str, tuple[bytes, type[StreamerError]]] = {
    "nothing": (b"", InvalidArchive),
    "an empty tar": (layer(), InvalidArchive),
    "text": (b"this is not an archive\n" * 500, InvalidArchive),
    "a gzip of text": (images.COMPRESS["gzip"](b"text" * 5000), InvalidArchive),
    "zeros": (bytes(512), InvalidArchive),
    "a member outside": (layer(file("manifest.json"), file("../x", b"x")), InvalidArchive),
    "a device": (layer(file("manifest.json"), images.node("null")), InvalidArchive),
    "a name twice": (layer(file("manifest.json", b"1"), file("manifest.json", b"2")), InvalidArchive),
    "a link over a file": (layer(file("manifest.json", b"1"), symlink("manifest.json", "x")), InvalidArchive),
    "a name that is not UTF-8": (layer(file("manifest.json"), file("\udcff")), InvalidArchive),
}


@pytest.mark.parametrize("name", OUTER)
async def test_outer_archive(name: str, tmp_path: Path) -> None:
    data, error = OUTER[name]
    await refused(tmp_path, data, error)


@pytest.mark.parametrize("case", hostile.ESCAPES, ids=lambda case: case.id)
async def test_escaping_layers_write_nothing_outside(case: Any, tmp_path: Path) -> None:
    """Refused or kept inside; in any case nothing appears beside the layer's own directory."""
    (tmp_path / "victim").write_text("untouched")
    state = tmp_path / "state"
    async with LocalStore.open(state) as store:
        try:
            await store.import_archive(images.Bytes(case.data), name="escape", kind="rootfs")
        except StreamerError:
            assert contents(state) == EMPTY
        else:
            assert len(os.listdir(state / "layers")) == 1
    assert sorted(os.listdir(tmp_path)) == ["state", "victim"]
    assert (tmp_path / "victim").read_text() == "untouched"
    assert sorted(os.listdir(state)) == ["containers", "layers", "lock", "staging", "streamer.db", "trash"]


async def test_hostile_layers(tmp_path: Path) -> None:
    """Every odd archive that was ever met, as a layer: refused without a trace, or given back byte for byte."""
    async with LocalStore.open(tmp_path) as store:
        for case in hostile.CASES:
            try:
                report = await store.import_archive(images.Bytes(case.data), name="x", kind="rootfs")
            except StreamerError:
                assert contents(tmp_path) == EMPTY, case.id
                continue
            stored = report.images[0].layers[0]
            assert stored.assemble is not None
            assert b"".join(stored.assemble()) == case.data, case.id
            await store.remove_image("x")


def bomb(compression: str) -> bytes:
    """A layer of zeros, 300 MiB, in very few bytes."""
    command = {"bzip2": ["bzip2", "-9"], "xz": ["xz", "-1"], "zstd": ["zstd", "-q", "-3"]}[compression]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def feed() -> None:
            assert process.stdin is not None
            with process.stdin as out:
                header = layer(file("bomb", b""))[:512]
                out.write(header)
                for _ in range(300):
                    out.write(bytes(1 << 20))

        thread = threading.Thread(target=feed)
        thread.start()
        data = process.stdout.read()
        thread.join()
    return data


@pytest.mark.parametrize("compression", ["bzip2", "xz", "zstd"])
async def test_bombs(compression: str, tmp_path: Path) -> None:
    begun = time.monotonic()
    data = bomb(compression)
    made = time.monotonic()
    await refused(tmp_path, data, LimitExceeded)
    assert time.monotonic() - made < 120 + (made - begun)


async def test_limits(tmp_path: Path) -> None:
    data = layer(*(file(f"f{number}", b"x") for number in range(50)))
    await refused(tmp_path, data, LimitExceeded, limits=Limits(entries=49), name="x")
    await refused(tmp_path, data, LimitExceeded, limits=Limits(total=20_000), name="x")


async def test_too_many_layers(tmp_path: Path) -> None:
    tiny = layer()
    for form in (images.docker, images.oci):
        error = await refused(tmp_path, images.pack(form(images.image(*[tiny] * 500))), LimitExceeded)
        assert "500 layers, more than 499" in str(error)


async def test_hard_link_to_nothing(tmp_path: Path) -> None:
    error = await refused(tmp_path, layer(link("a", "../../etc/passwd")), name="x", kind="rootfs")
    assert "a" in str(error.details["member"])


async def test_bad_parameters(tmp_path: Path) -> None:
    archive = images.pack(images.docker(GOOD, images.image(layer(file("z")), names=["other:1"])))
    await refused(tmp_path, archive, InvalidRequest, name="one-for-two")
    await refused(tmp_path, archive, InvalidReference, name="UPPER")
    await refused(tmp_path, archive, InvalidReference, name=f"a@{GOOD.id}")
    await refused(tmp_path, tmp_path / "missing", NotFound)
    await refused(tmp_path, tmp_path / "layers", InvalidArchive)
    await refused(tmp_path, tmp_path / "layers", InvalidRequest, kind=ArchiveKind.ROOTFS)


async def test_a_failed_import_leaves_the_old_image_and_its_name(tmp_path: Path) -> None:
    """The second image of the archive is wrong, the first would have taken the name of a stored one."""
    other = images.image(GOOD.layers[0], layer(file("c", b"c")), names=["good:1"])
    wrong = images.image(GOOD.layers[0], layer(file("d", b"d")), names=["wrong:1"])
    files = images.docker(other, wrong)
    last = [name for name in files if name.endswith("layer.tar")][-1]
    files[last] = layer(file("e", b"e"))
    async with LocalStore.open(tmp_path) as store:
        await store.import_archive(images.Bytes(images.pack(images.docker(GOOD))))
        before = contents(tmp_path)
        with pytest.raises(DigestMismatch):
            await store.import_archive(images.Bytes(images.pack(files)))
        assert contents(tmp_path) == before
        assert [image.id for image in await store.images()] == [GOOD.id]
        assert (await store.image("good:1")).id == GOOD.id


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    if os.geteuid() != 0:
        pytest.skip("a small file system can only be mounted as root")
    path = tmp_path / "small"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", path], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", path], check=True)


@pytest.mark.root
@pytest.mark.parametrize("kind", [ArchiveKind.DOCKER_ARCHIVE, ArchiveKind.ROOTFS])
async def test_full_disk(kind: ArchiveKind, small: Path) -> None:
    chance = random.Random(3)
    data = layer(*(file(f"f{number}", chance.randbytes(200_000)) for number in range(40)))
    saved = images.pack(images.docker(images.image(data, names=["big:1"])))
    archive = saved if kind is ArchiveKind.DOCKER_ARCHIVE else data
    state = small / "state"
    await refused(state, archive, StorageFull, kind=kind)
    async with LocalStore.open(state) as store:
        await store.import_archive(images.Bytes(images.pack(images.docker(GOOD))))
        assert len((await store.image("good:1")).layers) == 2
