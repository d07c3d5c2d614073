"""Saved images whose blobs their store still has, and those that have layers of unknown length."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support import exports, images, leaks
from support.images import MadeImage, directory, file, layer
from support.layouts import (
    DOCKER_CONFIG,
    DOCKER_LAYER,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_MANIFEST,
    Layout,
    tag,
)
from support.unpacking import filtered

from streamer.errors import ConsumerGone, SourceChanged, StoreDamaged, StreamerError, Unsupported
from streamer.export.image import Format, plan_images
from streamer.export.layer import plan_layer
from streamer.export.plan import ExportPlan, Options, Report, Session
from streamer.mounts.table import MountTable
from streamer.stores.base import Image, Listing, Reading
from streamer.stores.catalog import Catalog
from streamer.stores.local.store import LocalStore
from streamer.stores.oci_layout.store import oci_layout

BASE = layer(directory("etc/"), file("etc/passwd", b"root" * 100_000))
NAME = "shop:1"


def made(text: str = "1", compression: str = "gzip") -> MadeImage:
    return images.image(BASE, layer(file("which", text.encode())), compression=compression)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "shop")


async def planned(layout: Layout, *names: str, format: Format = Format.OCI) -> ExportPlan:
    return await plan_images(Catalog({"s": oci_layout("s", layout.root)}), names or (NAME,), Options(), format)


def members(archive: bytes) -> dict[str, bytes]:
    found = {}
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        for member in opened:
            content = opened.extractfile(member) if member.isfile() else None
            assert member.name not in found, "a member twice"
            found[member.name] = content.read() if content is not None else b""
    return found


def index(files: dict[str, bytes]) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = json.loads(files["index.json"])["manifests"]
    return listed


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
async def test_saved_as_it_was_pulled(compression: str, algorithm: str, tmp_path: Path) -> None:
    """Manifest, configuration and layers byte for byte, under the names they had, and a length beforehand."""
    layout = Layout(tmp_path / "shop", algorithm)
    image = made(compression=compression)
    listed = layout.image(image, annotations=tag("1"))
    layout.index(listed)
    plan = await planned(layout)
    archive = await exports.body(plan)
    assert plan.length == len(archive)
    files = members(archive)
    blobs = {str(path.relative_to(layout.root)) for path in layout.root.glob("blobs/*/*")}
    for name in blobs - {str(layout.path(listed).relative_to(layout.root))}:
        assert files[name] == (layout.root / name).read_bytes()
    (entry,) = index(files)
    assert entry["digest"] == images.sha256(layout.path(listed).read_bytes())
    assert files["blobs/" + entry["digest"].replace(":", "/")] == layout.path(listed).read_bytes()
    assert entry["annotations"]["io.containerd.image.name"] == "docker.io/library/shop:1"
    (item,) = json.loads(files["manifest.json"])
    assert item["RepoTags"] == [NAME]
    assert hashlib.sha256(files[item["Config"]]).hexdigest() == image.id[7:]
    assert [len(files[path]) for path in item["Layers"]] == [len(data) for data in image.blobs()]
    assert set(item["Layers"]) < blobs


async def test_media_types_stay(layout: Layout) -> None:
    image = made()
    parts = [{**part, "mediaType": f"{DOCKER_LAYER}.gzip"} for part in layout.layers(image, DOCKER_LAYER)]
    listed = layout.image(image, DOCKER_MANIFEST, config_type=DOCKER_CONFIG, layers=parts, annotations=tag("1"))
    layout.index(listed)
    (entry,) = index(members(await exports.body(await planned(layout))))
    assert {key: entry[key] for key in ("mediaType", "digest", "size")} == {
        key: listed[key] for key in ("mediaType", "digest", "size")
    }


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
@pytest.mark.parametrize("format", Format)
async def test_what_is_saved_can_be_imported(format: Format, compression: str, layout: Layout, tmp_path: Path) -> None:
    image = made(compression=compression)
    layout.index(layout.image(image, annotations=tag("1")))
    archive = await exports.body(await planned(layout, format=format))
    async with LocalStore.open(tmp_path / "state") as store:
        report = await store.import_archive(images.Bytes(archive))
        assert [(each.id, [name.familiar for name in each.names]) for each in report.images] == [(image.id, [NAME])]


async def test_and_unpacked_is_a_layout_again(layout: Layout, tmp_path: Path) -> None:
    layout.index(layout.image(made(), annotations=tag("1")))
    archive = await exports.body(await planned(layout))
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        opened.extractall(tmp_path / "again", **filtered("data"))
    again = await oci_layout("s", tmp_path / "again").image(NAME)
    assert again == await oci_layout("s", layout.root).image(NAME)


async def test_what_the_embedded_store_saves_is_a_layout(tmp_path: Path) -> None:
    image = replace(made(), names=[NAME])
    async with LocalStore.open(tmp_path / "state") as store:
        await store.import_archive(images.Bytes(images.pack(images.docker(image))))
        archive = await exports.body(await plan_images(Catalog({"local": store}), [NAME], Options()))
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        opened.extractall(tmp_path / "saved", **filtered("data"))
    found = await oci_layout("s", tmp_path / "saved").image(NAME)
    assert found.id == image.id
    assert [part.size for part in found.layers] == [len(data) for data in image.layers]
    assert [await exports.body(plan_layer(part, Options())) for part in found.layers] == image.layers


async def test_only_the_platform_that_was_meant(layout: Layout) -> None:
    here, there = made("here"), replace(made("there"), config={"architecture": "s390x"})
    kept = layout.image(here)
    layout.index(layout.nested(layout.image(there), kept, annotations=tag("1")))
    (entry,) = index(members(await exports.body(await planned(layout))))
    assert entry["digest"] == kept["digest"]


async def test_layers_are_shared_as_they_are(layout: Layout) -> None:
    one, two, three = made("1"), made("2"), made("3", "zstd")
    layout.index(*(layout.image(each, annotations=tag(str(n))) for n, each in enumerate((one, two, three), 1)))
    plan = await planned(layout, "shop:1", "shop:2", "shop:3")
    archive = await exports.body(plan)
    assert plan.length == len(archive)
    # Three images: the base once as gzip and once as zstd, a top, a manifest and a configuration each.
    assert len([name for name, data in members(archive).items() if data and name.startswith("blobs/")]) == 2 + 9


async def test_beside_an_image_without_blobs(layout: Layout, tmp_path: Path) -> None:
    """Each in the form that its store can give; the tar of a layer and its blob are two members."""
    pulled, own = made("pulled"), made("own")
    layout.index(layout.image(pulled, annotations=tag("1")))
    async with LocalStore.open(tmp_path / "state") as store:
        await store.import_archive(images.Bytes(images.pack(images.docker(replace(own, names=["own:1"])))))
        catalog = Catalog({"local": store, "s": oci_layout("s", layout.root)})
        plan = await plan_images(catalog, [NAME, "own:1"], Options())
        archive = await exports.body(plan)
    assert plan.length == len(archive)
    files = members(archive)
    first, second = json.loads(files["manifest.json"])
    assert [files[path] for path in first["Layers"]] == pulled.blobs()
    assert [files[path] for path in second["Layers"]] == own.layers


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
async def test_legacy_holds_tars(compression: str, layout: Layout) -> None:
    """Their length is not known where they are compressed, so neither is the archive's; its bytes are the same."""
    image = made(compression=compression)
    layout.index(layout.image(image, annotations=tag("1")))
    plan = await planned(layout, format=Format.DOCKER_LEGACY)
    archive = await exports.body(plan)
    assert plan.length == (len(archive) if compression == "none" else None)
    files = members(archive)
    (item,) = json.loads(files["manifest.json"])
    assert [files[path] for path in item["Layers"]] == image.layers


class Records:
    """A store of records made up by a test."""

    name, location = "s", "s:"

    def __init__(self, *found: Image) -> None:
        self.found = found

    async def image(self, reference: str) -> Image:
        return self.found[0]

    async def images(self) -> Listing[Image]:
        return Listing(self.found)


async def made_up(layout: Layout, **changes: Any) -> Image:
    image = await oci_layout("s", layout.root).image(NAME)
    return replace(image, **changes)


async def saved(image: Image, format: Format = Format.OCI) -> tuple[ExportPlan, dict[str, bytes]]:
    plan = await plan_images(Catalog({"s": Records(image)}), [NAME], Options(), format)  # type: ignore[dict-item]
    archive = await exports.body(plan)
    assert plan.length in (None, len(archive))
    return plan, members(archive)


async def test_a_layer_of_unknown_length_is_made_twice(layout: Layout) -> None:
    """A store that lost a blob, and gives the tars all the same: nobody knows how long they are."""
    made_image = made()
    layout.index(layout.image(made_image, annotations=tag("1")))
    image = await made_up(layout)
    asked: list[str] = []

    def counted(diff_id: str, assemble: Reading | None) -> Reading:
        assert assemble is not None
        return lambda start=0, stop=None: (asked.append(diff_id), assemble(start, stop))[1]

    bottom, top = image.layers
    bottom = replace(bottom, blob=None, assemble=counted("bottom", bottom.assemble))
    top = replace(top, size=len(made_image.layers[1]), assemble=counted("top", top.assemble))
    plan, files = await saved(replace(image, layers=(bottom, top)))
    assert plan.length is None
    assert asked == [
        "bottom",
        *sorted(["bottom", "top"], key=lambda name: {"bottom": bottom, "top": top}[name].diff_id),
    ]
    (entry,) = index(files)
    manifest = json.loads(files["blobs/" + entry["digest"].replace(":", "/")])
    assert [(each["digest"], each["size"]) for each in manifest["layers"]] == [
        (images.sha256(data), len(data)) for data in made_image.layers
    ]
    (item,) = json.loads(files["manifest.json"])
    assert [files[path] for path in item["Layers"]] == made_image.layers


@pytest.mark.parametrize(
    "manifest",
    [
        None,
        b"",
        b"{}",
        b'{"manifests": []}',
        b'{"config": {"digest": "sha256:%s", "size": 3}, "layers": []}' % (b"0" * 64),
    ],
)
async def test_a_manifest_that_is_not_the_images_own(manifest: bytes | None, layout: Layout) -> None:
    made_image = made()
    layout.index(layout.image(made_image, annotations=tag("1")))
    _, files = await saved(await made_up(layout, manifest=manifest))
    (item,) = json.loads(files["manifest.json"])
    assert [files[path] for path in item["Layers"]] == made_image.layers


async def test_a_manifest_with_other_layers(layout: Layout) -> None:
    one, two = made("1"), made("2")
    layout.index(layout.image(one, annotations=tag("1")), layout.image(two, annotations=tag("2")))
    other = await oci_layout("s", layout.root).image("shop:2")
    _, files = await saved(await made_up(layout, manifest=other.manifest))
    (item,) = json.loads(files["manifest.json"])
    assert [files[path] for path in item["Layers"]] == one.layers


async def test_neither_blob_nor_tar(layout: Layout) -> None:
    layout.index(layout.image(made(), annotations=tag("1")))
    image = await made_up(layout)
    lost = replace(image.layers[0], blob=None, assemble=None)
    for format in Format:
        with pytest.raises(Unsupported, match="kept neither its blob nor tar-split data"):
            await saved(replace(image, layers=(lost, image.layers[1])), format)


def _other_bytes(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("format", Format)
@pytest.mark.parametrize("broken", [Path.unlink, _other_bytes, lambda path: path.write_bytes(path.read_bytes()[:-1])])
async def test_a_blob_that_is_lost_or_changed_meanwhile(
    broken: Callable[[Path], object], format: Format, layout: Layout
) -> None:
    """Never a clean end, nothing left open."""
    layout.index(layout.image(made(), annotations=tag("1")))
    plan = await planned(layout, format=format)
    image = await made_up(layout)
    assert image.layers[0].blob is not None
    before = leaks.held()
    broken(layout.path({"digest": image.layers[0].blob.descriptor.digest}))
    with pytest.raises((SourceChanged, StoreDamaged)):
        await exports.body(plan)
    assert await leaks.settles(before) == []


@pytest.mark.parametrize("format", Format)
async def test_a_blob_that_was_missing_already(format: Format, layout: Layout) -> None:
    """An error in place of the first byte, however late the layer's turn would have come."""
    parts = layout.layers(made())
    layout.index(layout.image(made(), layers=parts, annotations=tag("1")))
    layout.path(parts[1]).unlink()
    plan = await planned(layout, format=format)
    with pytest.raises(StoreDamaged, match=parts[1]["digest"].partition(":")[2]):
        next(plan.chunks(session()))


async def test_encrypted_layers_are_saved_as_they_are(layout: Layout) -> None:
    parts = layout.layers(made())
    parts[1]["mediaType"] += "+encrypted"
    layout.index(layout.image(made(), layers=parts, annotations=tag("1")))
    assert len(members(await exports.body(await planned(layout)))) > 5
    with pytest.raises(Unsupported, match="encrypted"):
        await exports.body(await planned(layout, format=Format.DOCKER_LEGACY))


async def test_who_leaves_while_lengths_are_counted(layout: Layout) -> None:
    layout.index(layout.image(made(), annotations=tag("1")))
    plan = await planned(layout, format=Format.DOCKER_LEGACY)
    before = leaks.held()

    def gone() -> None:
        raise ConsumerGone("gone")

    with pytest.raises(ConsumerGone):
        next(plan.chunks(session(gone)))
    assert leaks.held().beyond(before) == []


def session(check: Callable[[], None] = lambda: None) -> Session:
    return Session(MountTable(), Report(), check)


@pytest.mark.parametrize("error", [SourceChanged("x"), StoreDamaged("x")])
async def test_the_end_check_of_a_blob(error: StreamerError, layout: Layout) -> None:
    layout.index(layout.image(made(), annotations=tag("1")))
    image = await made_up(layout)

    def guard() -> None:
        raise error

    with pytest.raises(type(error)):
        await saved(replace(image, layers=(image.layers[0], replace(image.layers[1], guard=guard))))


@pytest.mark.parametrize("media_type", ["text/html", "\ud800x"])
async def test_a_manifest_of_no_known_type_stays_out_of_the_index(media_type: str, layout: Layout) -> None:
    """Readers would pass over an entry of a type that they do not know, and a lone surrogate is no UTF-8."""
    image = made()
    value = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": layout.blob(image.data, OCI_CONFIG),
        "layers": layout.layers(image),
    }
    listed = layout.blob(json.dumps(value).encode(), OCI_MANIFEST)
    layout.index({**listed, "annotations": tag("1")})
    (entry,) = index(members(await exports.body(await planned(layout))))
    assert entry["mediaType"] == OCI_MANIFEST


async def test_a_configuration_that_is_no_utf_8(layout: Layout) -> None:
    layout.index(layout.image(images.image(BASE, author="\ud800"), annotations=tag("1")))
    assert members(await exports.body(await planned(layout, format=Format.DOCKER_LEGACY)))
