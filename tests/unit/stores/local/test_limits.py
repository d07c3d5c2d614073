"""What an image archive may cost: memory is bounded by what its documents may hold, however often they name it."""

from __future__ import annotations

import gzip
import io
import json
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support import images
from support.images import directory, file, layer, symlink

from streamer.errors import LimitExceeded, StreamerError
from streamer.oci import config as configs
from streamer.oci import media
from streamer.stores.local.store import LocalStore

MIB = 1 << 20


def padded(size: int, number: int = 0) -> bytes:
    """A configuration of an image without layers, padded by one long string."""
    return json.dumps({"rootfs": {"diff_ids": []}, "n": number, "x": "y" * size}).encode()


def saved(items: list[dict[str, Any]], **files: bytes) -> bytes:
    listed = [file("manifest.json", json.dumps(items).encode())]
    return gzip.compress(layer(*listed, *(file(name, data) for name, data in files.items())), 1)


def layout(manifests: list[dict[str, Any]], names: int = 1) -> bytes:
    """An OCI archive with these configurations and manifests; each manifest listed that many times."""
    files: images.Files = {"oci-layout": b'{"imageLayoutVersion": "1.0.0"}'}
    listed = []
    for made in manifests:
        config = made.pop("data")
        blobs = []
        for media_type, data in ((images.OCI_CONFIG, config), (images.OCI_MANIFEST, None)):
            if data is None:
                data = json.dumps({"schemaVersion": 2, "config": blobs[0], "layers": [], **made}).encode()
            files[f"blobs/sha256/{images.encoded(data)}"] = data
            blobs.append({"mediaType": media_type, "digest": images.sha256(data), "size": len(data)})
        for number in range(names):
            name = f"example.org/i{len(listed)}:{number}"
            listed.append({**blobs[1], "annotations": {"io.containerd.image.name": name}})
    files["index.json"] = json.dumps({"schemaVersion": 2, "manifests": listed}).encode()
    return gzip.compress(images.pack(files), 1)


@contextmanager
def at_most(size: int) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < size
    finally:
        tracemalloc.stop()


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What configurations were parsed on the way in."""
    seen: list[str] = []
    parse = configs.parse

    def counted(data: bytes, what: str = "the image configuration") -> configs.Config:
        if what != "the image configuration":
            seen.append(what)
        return parse(data, what)

    monkeypatch.setattr(configs, "parse", counted)
    return seen


async def test_a_configuration_named_often_is_read_once(tmp_path: Path, parsed: list[str]) -> None:
    config = padded(8 * MIB - 100)
    items = [{"Config": "c.json", "RepoTags": [f"i:{number}"], "Layers": []} for number in range(200)]
    forms = [saved(items, **{"c.json": config}), layout([{"data": config}], 200)]
    forms.append(layout([{"data": config, "annotations": {"n": str(number)}} for number in range(200)]))
    async with LocalStore.open(tmp_path) as store:
        for archive in forms:
            parsed.clear()
            with at_most(80 * MIB):
                report = await store.import_archive(io.BytesIO(archive))
            assert len(parsed) == len(report.images) == 1
            assert len(report.images[0].names) == 200
            await store.remove_image(report.images[0].id, force=True)


BOUNDED = {
    "images of a docker-archive": saved([{"Config": "c.json"}] * 1001, **{"c.json": padded(0)}),
    "images of a layout": layout([{"data": padded(0)}], 1001),
    "names": saved(
        [{"Config": "c.json", "RepoTags": [f"i:{number}" for number in range(10_001)]}], **{"c.json": padded(0)}
    ),
    "configurations of a docker-archive": saved(
        [{"Config": f"c{number}"} for number in range(9)], **{f"c{n}": padded(8 * MIB - 100, n) for n in range(9)}
    ),
    "configurations of a layout": layout([{"data": padded(8 * MIB - 100, number)} for number in range(9)]),
    "manifests of a layout": layout(
        [{"data": padded(0), "annotations": {"x": "y" * (4 * MIB - 1000), "n": str(number)}} for number in range(17)]
    ),
    "a long name": layer(file("manifest.json"), file("x" * 4097)),
    "a long link target": layer(file("manifest.json"), symlink("x", "y" * 4097)),
    "a long name of a directory": layer(file("manifest.json"), directory("d" * 4097)),
    "long names": layer(file("manifest.json"), *(file(f"{number:04}" + "x" * 4000) for number in range(2100))),
}


@pytest.mark.parametrize("name", BOUNDED)
async def test_bounded(name: str, tmp_path: Path) -> None:
    async with LocalStore.open(tmp_path) as store:
        with pytest.raises(LimitExceeded), at_most(160 * MIB):
            await store.import_archive(io.BytesIO(BOUNDED[name]))
        assert not (await store.images()).items


async def test_as_many_as_allowed(tmp_path: Path) -> None:
    items = [{"Config": f"c{number}", "RepoTags": [f"i:{number}"]} for number in range(media.MAX_IMAGES)]
    archive = saved(items, **{f"c{number}": padded(0, number) for number in range(media.MAX_IMAGES)})
    async with LocalStore.open(tmp_path) as store:
        assert len((await store.import_archive(io.BytesIO(archive))).images) == media.MAX_IMAGES


async def test_layers_of_an_image_and_one_more_for_its_container(tmp_path: Path) -> None:
    made = images.image(*[layer()] * 499, names=["many:1"])
    async with LocalStore.open(tmp_path) as store:
        await store.import_archive(images.Bytes(images.pack(images.docker(made))))
        box = await store.create("many:1", "box")
        assert len(box.snapshot.layers) == 500
        with pytest.raises(LimitExceeded, match="500 layers, more than 499"):
            await store.commit("box", images.Bytes(layer()), "more:1")
        assert [image.id for image in await store.images()] == [made.id]


async def test_the_message_names_the_limit(tmp_path: Path) -> None:
    async with LocalStore.open(tmp_path) as store:
        for name, text in [
            ("images of a layout", "1000"),
            ("manifests of a layout", str(64 * MIB)),
            ("names", "10000"),
        ]:
            with pytest.raises(StreamerError, match=text):
                await store.import_archive(io.BytesIO(BOUNDED[name]))
