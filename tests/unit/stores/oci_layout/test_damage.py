"""Layouts that are broken, incomplete or hostile: the file is named, nothing else hidden, nothing outside read."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import exports, images, leaks
from support.images import OCI_INDEX, MadeImage, directory, file, layer
from support.layouts import Layout, tag

from streamer.errors import LimitExceeded, SourceChanged, StoreDamaged, StreamerError, Unsupported
from streamer.export.layer import plan_layer
from streamer.export.plan import Options
from streamer.oci import media
from streamer.stores.base import Store
from streamer.stores.catalog import Catalog
from streamer.stores.oci_layout import reading
from streamer.stores.oci_layout.store import oci_layout

BASE = layer(directory("etc/"), file("etc/passwd", b"root"))


def made(text: str = "1") -> MadeImage:
    return images.image(BASE, layer(file("which", text.encode())), compression="gzip")


GOOD, BAD = made("good"), made("bad")


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "PAUSE", 0)


class Broken:
    """A layout with a good image, and a bad one whose files a test breaks."""

    def __init__(self, root: Path) -> None:
        self.layout = Layout(root)
        self.good = self.layout.image(GOOD, annotations=tag("good"))
        self.bad = self.layout.image(BAD, annotations=tag("bad"))
        self.layout.index(self.good, self.bad)
        self.store: Store = oci_layout("s", root)
        value = json.loads(self.layout.path(self.bad).read_bytes())
        self.config: Path = self.layout.path(value["config"])
        self.top: Path = self.layout.path(value["layers"][1])
        self.manifest: Path = self.layout.path(self.bad)

    def rel(self, path: Path) -> str:
        return str(path.relative_to(self.layout.root))


@pytest.fixture
def broken(tmp_path: Path) -> Broken:
    return Broken(tmp_path / "shop")


def _link(path: Path) -> None:
    """To the very same content, outside of the layout."""
    elsewhere = path.parents[3] / "outside"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


BREAK: dict[str, Callable[[Path], object]] = {
    "missing": Path.unlink,
    "link": _link,
    "fifo": _fifo,
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"x"),
    "shorter": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "empty": lambda path: path.write_bytes(b""),
}


@pytest.mark.parametrize("how", [*BREAK, "other bytes"])
@pytest.mark.parametrize("what", ["manifest", "config"])
async def test_a_damaged_document_hides_no_other(what: str, how: str, broken: Broken) -> None:
    path: Path = getattr(broken, what)
    if how == "other bytes":
        path.write_bytes(path.read_bytes().replace(b'"', b"'"))
    else:
        BREAK[how](path)
    found = await broken.store.images()
    assert [image.id for image in found] == [GOOD.id]
    (damaged,) = found.damaged
    assert damaged.names == ("shop:bad",)
    assert isinstance(damaged.error, StoreDamaged)
    assert broken.rel(path) in str(damaged.error)
    assert str(broken.layout.root) not in str(damaged.error)
    with pytest.raises(StoreDamaged, match=path.name):
        await broken.store.image("shop:bad")
    assert (await broken.store.image("shop:good")).id == GOOD.id
    assert len(await broken.store.layers()) == 2


@pytest.mark.parametrize("how", BREAK)
async def test_an_image_without_all_its_layers(how: str, broken: Broken) -> None:
    """It is listed, the layers that are there are given, the other one is an error before the first byte."""
    BREAK[how](broken.top)
    before = leaks.held()
    image = await broken.store.image("shop:bad")
    assert image.id == BAD.id
    assert image.manifest is None
    assert await exports.body(plan_layer(image.layers[0], Options())) == BASE
    with pytest.raises(StoreDamaged, match=broken.rel(broken.top)):
        await exports.body(plan_layer(image.layers[1], Options()))
    with pytest.raises(StoreDamaged, match=broken.rel(broken.top)):
        await broken.store.layer(image.layers[1].diff_id)
    listed = await broken.store.layers()
    assert len(listed) == 2
    assert [each.id for each in listed.damaged] == [image.layers[1].chain_id]
    assert leaks.held().beyond(before) == []


async def test_a_layer_with_other_bytes(broken: Broken) -> None:
    data = bytearray(broken.top.read_bytes())
    data[-1] ^= 1
    broken.top.write_bytes(data)
    part = (await broken.store.image("shop:bad")).layers[1]
    with pytest.raises(StoreDamaged, match="layer"):
        await exports.body(plan_layer(part, Options()))


async def test_a_layer_whose_tar_is_another(broken: Broken, tmp_path: Path) -> None:
    """The blob is what its manifest says, but not what the configuration says."""
    layout = Layout(tmp_path / "wrong")
    layout.index(layout.image(BAD, layers=layout.layers(GOOD), annotations=tag("1")))
    part = (await oci_layout("s", layout.root).image("wrong:1")).layers[1]
    with pytest.raises(SourceChanged, match=part.diff_id):
        await exports.body(plan_layer(part, Options()))


@pytest.mark.parametrize("how", ["removed", "replaced"])
async def test_the_end_check(how: str, broken: Broken) -> None:
    """Gone after the last byte: the stream still breaks."""
    part = (await broken.store.image("shop:bad")).layers[1]
    chunks = plan_layer(part, Options()).chunks(None)  # type: ignore[arg-type]
    next(chunks)
    data = broken.top.read_bytes()
    broken.top.unlink()
    if how == "replaced":
        broken.top.with_name("other").write_bytes(data)
        broken.top.with_name("third").write_bytes(data)
        broken.top.with_name("third").rename(broken.top)
    with pytest.raises(SourceChanged, match="removed from its store or replaced"):
        list(chunks)


@pytest.mark.parametrize(
    ("media_type", "text"),
    [
        ("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", "may not be distributed"),
        ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "may not be distributed"),
    ],
)
async def test_layers_to_be_fetched_elsewhere(media_type: str, text: str, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "shop")
    parts = layout.layers(GOOD)
    parts[0]["mediaType"] = media_type
    layout.path(parts[0]).unlink()
    layout.index(layout.image(GOOD, layers=parts, annotations=tag("1")))
    store = oci_layout("s", layout.root)
    image = await store.image("shop:1")
    assert await exports.body(plan_layer(image.layers[1], Options())) == GOOD.layers[1]
    with pytest.raises(Unsupported, match=text):
        await exports.body(plan_layer(image.layers[0], Options()))
    with pytest.raises(Unsupported, match=text):
        await store.layer(image.layers[0].diff_id)


async def test_encrypted_layers(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "shop")
    parts = layout.layers(GOOD)
    parts[1]["mediaType"] += "+encrypted"
    layout.index(layout.image(GOOD, layers=parts, annotations=tag("1")))
    image = await oci_layout("s", layout.root).image("shop:1")
    assert image.manifest is not None
    with pytest.raises(Unsupported, match="encrypted"):
        await exports.body(plan_layer(image.layers[1], Options()))


def _write(name: str, data: bytes) -> Callable[[Path], object]:
    return lambda root: (root / name).write_bytes(data)


UNREADABLE: list[tuple[Callable[[Path], object], str, type[StreamerError]]] = [
    (lambda root: root.rename(root.with_name("moved")), "oci-layout is missing", StoreDamaged),
    (lambda root: (root / "oci-layout").unlink(), "oci-layout is missing", StoreDamaged),
    (_write("oci-layout", b"{"), "oci-layout is not valid JSON", StoreDamaged),
    (_write("oci-layout", b"[]"), "oci-layout is not a JSON object", StoreDamaged),
    (_write("oci-layout", b'{"imageLayoutVersion": "2.0.0"}'), "'2.0.0'", Unsupported),
    (_write("oci-layout", b"{}" + b" " * 5000), "oci-layout is larger", StoreDamaged),
    (lambda root: (root / "index.json").unlink(), "index.json is missing", StoreDamaged),
    (_write("index.json", b'{"manifests": [{'), "index.json is not valid JSON", StoreDamaged),
    (_write("index.json", b"\xff\xfe"), "index.json is not valid JSON", StoreDamaged),
    (_write("index.json", b"[" * 100_000), "index.json is not valid JSON", StoreDamaged),
    (_write("index.json", b"null"), "index.json is not a JSON object", StoreDamaged),
    (_write("index.json", b'{"manifests": {}}'), "index.json is not an image index", StoreDamaged),
    (_write("index.json", b'{"manifests": [], "layers": []}'), "index.json is not an image index", StoreDamaged),
    (_write("index.json", b" " * (media.MAX_MANIFEST + 1)), "index.json is larger", StoreDamaged),
    (_write("index.json", b'{"manifests": [%s]}' % b",".join([b"1"] * 10_001)), "lists more than", LimitExceeded),
]


@pytest.mark.parametrize(("done", "text", "error"), UNREADABLE)
async def test_a_layout_that_cannot_be_read(
    done: Callable[[Path], object], text: str, error: type[StreamerError], broken: Broken, tmp_path: Path
) -> None:
    done(broken.layout.root)
    for question in (broken.store.images, broken.store.layers, lambda: broken.store.image("shop:good")):
        with pytest.raises(error, match=text) as raised:
            await question()
        assert str(tmp_path) not in str(raised.value)
    # It keeps nobody from other stores.
    listing = await Catalog({"s": broken.store}).images()
    assert [each.store for each in listing.damaged] == ["s"]


@pytest.mark.parametrize("name", ["oci-layout", "index.json", "blobs", "blobs/sha256"])
async def test_nothing_is_reached_through_a_link(name: str, broken: Broken, tmp_path: Path) -> None:
    path = broken.layout.root / name
    path.rename(tmp_path / "outside")
    path.symlink_to(tmp_path / "outside")
    if "blobs" in name:
        found = await broken.store.images()
        assert len(found) == 0
        assert len(found.damaged) == 2
    else:
        with pytest.raises(StoreDamaged, match=f"{name} is not a regular file"):
            await broken.store.images()


@pytest.mark.parametrize(
    "entry",
    [
        None,
        7,
        {},
        {"digest": "sha256:../../../etc/passwd", "size": 3},
        {"digest": "sha256:" + "0" * 64, "size": -1},
        {"digest": "sha256:" + "0" * 64, "size": True},
        {"digest": "md5:" + "0" * 32, "size": 1},
        {"digest": ["sha256:" + "0" * 64], "size": 1},
        {"digest": "sha256:" + "0" * 64, "size": 1, "annotations": []},
        {"digest": "sha256:" + "0" * 64, "size": 1, "platform": "linux"},
    ],
)
async def test_an_entry_that_is_malformed(entry: Any, broken: Broken) -> None:
    broken.layout.index(entry, broken.good)
    found = await broken.store.images()
    assert [image.id for image in found] == [GOOD.id]
    (damaged,) = found.damaged
    assert isinstance(damaged.error, StoreDamaged)


def _documents() -> dict[str, Callable[[Layout], dict[str, Any]]]:
    """Entries of index.json whose documents are what their digests say, and yet nonsense."""

    def config(**value: Any) -> Callable[[Layout], dict[str, Any]]:
        return lambda layout: layout.image(images.image(BASE, **value))

    def blob(data: bytes, media_type: str = "") -> Callable[[Layout], dict[str, Any]]:
        return lambda layout: layout.blob(data, media_type)

    manifest = "application/vnd.oci.image.manifest.v1+json"
    return {
        "no json": blob(b"x"),
        "a list": blob(b"[]"),
        "neither": blob(b"{}"),
        "both": blob(b'{"manifests": [], "layers": []}'),
        "an index as a manifest": blob(b'{"manifests": []}', manifest),
        "layers are a number": blob(b'{"config": {}, "layers": 5}', manifest),
        "deep": blob(b'{"a":' * 100_000, manifest),
        "rootfs is a list": config(rootfs=[]),
        "diff_ids are a number": config(rootfs={"diff_ids": 5}),
        "diff_ids are paths": config(rootfs={"diff_ids": ["sha256:../../x"]}),
        "fewer diff_ids": config(rootfs={"diff_ids": []}),
        "too many layers": lambda layout: layout.image(
            images.image(*[BASE] * 501), layers=layout.layers(images.image(BASE)) * 501
        ),
        "deep indexes": lambda layout: layout.nested(layout.nested(layout.nested(layout.nested(layout.image(BAD))))),
        "an index of nothing there": lambda layout: layout.nested(
            {"mediaType": manifest, "digest": "sha256:" + "0" * 64, "size": 5}
        ),
    }


@pytest.mark.parametrize("name", _documents())
async def test_documents_that_are_nonsense(name: str, broken: Broken) -> None:
    entry = _documents()[name](broken.layout)
    broken.layout.index({**entry, "annotations": tag("odd")}, broken.good)
    found = await broken.store.images()
    assert [image.id for image in found] == [GOOD.id]
    assert [each.names for each in found.damaged] == [("shop:odd",)]
    assert all(isinstance(each.error, StoreDamaged) for each in found.damaged)


async def test_indexes_do_not_fan_out(broken: Broken, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each document is read once, however often it is named; their number is bounded."""
    manifests = [broken.good] * 7
    indexes = [broken.layout.document({"manifests": manifests, "number": n}, OCI_INDEX) for n in range(7)]
    monkeypatch.setattr(media, "MAX_DESCRIPTORS", 9)
    broken.layout.index(*indexes)
    assert len(await broken.store.images()) == 1
    broken.layout.index(*indexes, broken.bad)
    with pytest.raises(LimitExceeded, match="more than 9 documents"):
        await broken.store.images()


async def test_documents_do_not_fill_the_memory(broken: Broken, monkeypatch: pytest.MonkeyPatch) -> None:
    size = broken.manifest.stat().st_size + broken.config.stat().st_size
    monkeypatch.setattr(media, "MAX_DOCUMENTS", 2 * size + 10)
    assert len(await broken.store.images()) == 2
    monkeypatch.setattr(media, "MAX_DOCUMENTS", 2 * size - 10)
    with pytest.raises(LimitExceeded, match="bytes"):
        await broken.store.images()


@pytest.mark.parametrize("wrong", [{"size": 1}, {"mediaType": OCI_INDEX}])
async def test_a_wrong_promise_hides_no_right_one(wrong: dict[str, Any], broken: Broken) -> None:
    broken.layout.index({**broken.good, **wrong, "annotations": tag("odd")}, broken.good)
    found = await broken.store.images()
    assert [image.id for image in found] == [GOOD.id]
    assert [each.names for each in found.damaged] == [("shop:odd",)]
    assert (await broken.store.image("shop:good")).id == GOOD.id
    assert (await broken.store.image(broken.good["digest"])).id == GOOD.id


async def test_an_index_that_is_being_written(broken: Broken, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of it is there for a moment: who writes it does so in place."""
    path = broken.layout.root / "index.json"
    whole = path.read_bytes()
    path.write_bytes(whole[:50])
    monkeypatch.setattr(reading, "PAUSE", 0.2)
    writer = threading.Timer(0.05, lambda: path.write_bytes(whole))
    writer.start()
    assert len(await broken.store.images()) == 2
    writer.join()


async def test_blobs_collected_while_reading(broken: Broken, monkeypatch: pytest.MonkeyPatch) -> None:
    """The index was read before an image was removed, its blobs after: not damage, but an older index."""
    real = reading.found
    done: list[int] = []

    def found(*arguments: Any) -> reading.Found:
        if not done:
            done.append(1)
            broken.manifest.unlink()
            result = real(*arguments)
            broken.layout.index(broken.good)
            return result
        return real(*arguments)

    monkeypatch.setattr(reading, "found", found)
    listing = await broken.store.images()
    assert [image.id for image in listing] == [GOOD.id]
    assert listing.damaged == ()
