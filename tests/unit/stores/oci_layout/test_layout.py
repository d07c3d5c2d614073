"""What a layout holds: names, platforms, media types, compressions, and what in it is no image."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from support import exports, images
from support.images import MadeImage, directory, file, layer
from support.layouts import (
    DOCKER_CONFIG,
    DOCKER_INDEX,
    DOCKER_LAYER,
    DOCKER_MANIFEST,
    IMAGE_NAME,
    REF_NAME,
    Layout,
    platform,
    tag,
)

from streamer.errors import Ambiguous, NotFound, Unsupported
from streamer.export.container import plan_rootfs
from streamer.export.layer import plan_layer
from streamer.export.plan import Options
from streamer.oci import config as configs
from streamer.stores.base import Store
from streamer.stores.oci_layout.store import oci_layout

BASE = layer(directory("etc/"), file("etc/passwd", b"root"))
FOREIGN = next(name for name in ("s390x", "arm64") if name != configs.machine())


def made(text: str = "1", compression: str = "gzip", architecture: str | None = None) -> MadeImage:
    return images.image(
        BASE,
        layer(file("which", text.encode())),
        compression=compression,
        architecture=architecture or configs.machine(),
    )


def opened(layout: Layout, name: str = "s") -> Store:
    return oci_layout(name, layout.root)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "shop")


@pytest.mark.parametrize(
    ("annotations", "names"),
    [
        ({}, []),
        (tag("1.0"), ["shop:1.0"]),
        (tag("example.org/team/x:2"), ["example.org/team/x:2"]),
        (tag("team/x"), ["team/x:latest"]),
        (tag("x:2"), ["x:2"]),
        ({IMAGE_NAME: "docker.io/library/busybox:1", REF_NAME: "1"}, ["busybox:1"]),
        ({IMAGE_NAME: "not a name", REF_NAME: "1"}, ["shop:1"]),
        ({REF_NAME: "not a name"}, []),
        ({REF_NAME: "v1+build"}, []),
        ({REF_NAME: "../../etc"}, []),
        ({IMAGE_NAME: "x@sha256:" + "1" * 64}, []),
    ],
)
async def test_names(annotations: dict[str, str], names: list[str], layout: Layout) -> None:
    image = made()
    layout.index(layout.image(image, annotations=annotations))
    store = opened(layout)
    (found,) = await store.images()
    assert [name.familiar for name in found.names] == names
    for name in names:
        assert (await store.image(name)).id == image.id
        assert [each.id for _, each in await store.named(name.partition(":")[0])] == [image.id]


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("shop", "shop:1"),
        ("My Layout", "my-layout:1"),
        ("a..b", "a-b:1"),
        ("Ünicode", "nicode:1"),
        ("___", "layout:1"),
        ("localhost", "localhost:1"),
        ("x" * 200, "x" * 200 + ":1"),
    ],
)
async def test_a_bare_tag_belongs_to_the_directory(folder: str, name: str, tmp_path: Path) -> None:
    layout = Layout(tmp_path / folder)
    layout.index(layout.image(made(), annotations=tag("1")))
    (found,) = await opened(layout).images()
    assert [each.familiar for each in found.names] == [name]


async def test_a_name_by_digest(layout: Layout) -> None:
    image, digest = made(), "sha256:" + "1" * 64
    layout.index(layout.image(image, annotations={IMAGE_NAME: f"example.org/x:1@{digest}"}))
    assert (await opened(layout).image(f"example.org/x@{digest}")).id == image.id


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("compression", ["none", "gzip", "zstd", "xz"])
async def test_layers_in_any_compression(compression: str, algorithm: str, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "shop", algorithm)
    image = made(compression=compression)
    listed = layout.image(image, annotations=tag("1"))
    layout.index(listed)
    store = opened(layout)
    found = await store.image("shop:1")
    assert found.id == image.id
    for digest in (listed["digest"], listed["digest"][:20] if algorithm == "sha256" else listed["digest"]):
        assert (await store.image(digest)).id == image.id
    assert found.manifest == layout.path(listed).read_bytes()
    for part, data in zip(found.layers, image.layers, strict=True):
        assert part.size == (len(data) if (compression, algorithm) == ("none", "sha256") else None)
        plan = plan_layer(part, Options())
        assert await exports.body(plan) == data
        assert plan.digest == part.diff_id
        assert part.blob is not None
        assert b"".join(part.blob.read()) == layout.path({"digest": part.blob.descriptor.digest}).read_bytes()


async def test_docker_media_types(layout: Layout) -> None:
    image = made()
    parts = layout.layers(image, DOCKER_LAYER)
    for part in parts:
        part["mediaType"] = f"{DOCKER_LAYER}.gzip"
    child = layout.image(image, DOCKER_MANIFEST, config_type=DOCKER_CONFIG, layers=parts)
    layout.index(layout.nested(child, media_type=DOCKER_INDEX, annotations=tag("1")))
    found = await opened(layout).image("shop:1")
    assert [await exports.body(plan_layer(part, Options())) for part in found.layers] == image.layers


async def test_documents_without_media_types(layout: Layout) -> None:
    """The specification lets a manifest go without its own, and only names types that readers must know."""
    image = made()
    listed = layout.image(image, "", config_type="", annotations=tag("1"))
    layout.index(listed)
    assert (await opened(layout).image("shop:1")).id == image.id


async def test_platforms(layout: Layout) -> None:
    """All of them are images; the name means the one for this machine, wherever it stands."""
    here, there = made("here"), made("there", architecture=FOREIGN)
    children = [
        layout.image(there, platform=platform(FOREIGN)),
        layout.image(here, platform=platform(configs.machine())),
    ]
    nested = layout.nested(*children, annotations=tag("1"))
    layout.index(nested)
    store = opened(layout)
    assert {image.id for image in await store.images()} == {here.id, there.id}
    assert all([name.familiar for name in image.names] == ["shop:1"] for image in await store.images())
    for text in ("shop:1", nested["digest"], children[1]["digest"]):
        assert (await store.image(text)).id == here.id
    for text in (there.id, children[0]["digest"]):
        assert (await store.image(text)).id == there.id
    assert [image.id for _, image in await store.named("shop")] == [here.id]
    # The top layers differ, the base is shared.
    assert len(await store.layers()) == 3


async def test_platforms_side_by_side(layout: Layout) -> None:
    """One name on several entries; without a platform the configuration says what it is for."""
    here, there = made("here"), made("there", architecture=FOREIGN)
    layout.index(*(layout.image(each, annotations=tag("1")) for each in (there, here)))
    assert (await opened(layout).image("shop:1")).id == here.id


async def test_a_name_of_two_images(layout: Layout) -> None:
    """As a tool leaves it that appends to the index: listed with the name, but the name means neither."""
    first, second, other = made("1"), made("2"), made("3")
    nested = layout.nested(
        layout.image(second), layout.image(made("there", architecture=FOREIGN)), annotations=tag("1")
    )
    layout.index(layout.image(first, annotations=tag("1")), nested, layout.image(other, annotations=tag("2")))
    store = opened(layout)
    for look_up, text in ((store.image, "shop:1"), (store.named, "shop")):
        with pytest.raises(Ambiguous, match="shop:1") as caught:
            await look_up(text)
        assert {first.id, second.id} <= {each["id"] for each in caught.value.details["candidates"]}
    found = {image.id: [name.familiar for name in image.names] for image in await store.images()}
    assert found[first.id] == found[second.id] == ["shop:1"]
    for text, image in ((first.id, first), (second.id, second), ("shop:2", other)):
        assert (await store.image(text)).id == image.id


async def test_a_name_twice_on_one_image(layout: Layout) -> None:
    entries = [layout.image(made(compression=each), annotations=tag("1")) for each in ("gzip", "zstd")]
    layout.index(*entries)
    assert (await opened(layout).image("shop:1")).id == made().id


async def test_platforms_that_were_left_out(layout: Layout) -> None:
    here, there = made("here"), made("there", architecture=FOREIGN)
    children = [layout.image(there, platform=platform(FOREIGN)), layout.image(here)]
    layout.path(children[0]).unlink()
    layout.index(layout.nested(*children, annotations=tag("1")))
    found = await opened(layout).images()
    assert [image.id for image in found] == [here.id]
    assert found.damaged == ()


async def test_indexes_in_indexes(layout: Layout) -> None:
    image, other = made(), made("2")
    inner = layout.nested(layout.image(image))
    layout.index(layout.nested(inner, annotations=tag("1")), layout.nested(layout.image(other), annotations=tag("2")))
    assert {each.id for each in await opened(layout).images()} == {image.id, other.id}


def artifact(layout: Layout, kind: str) -> dict[str, Any]:
    image = made("no image")
    empty = layout.blob(b"{}", "application/vnd.oci.empty.v1+json")
    match kind:
        case "attestation":
            annotations = {"vnd.docker.reference.type": "attestation-manifest"}
            return layout.image(image, annotations=annotations)
        case "unknown platform":
            return layout.image(image, platform=platform("unknown", "unknown"))
        case "in-toto":
            return layout.image(image, layers=[layout.blob(b"{}", "application/vnd.in-toto+json")])
        case "empty configuration":
            return layout.document({"config": empty, "layers": [empty]}, "application/vnd.oci.image.manifest.v1+json")
        case "chart":
            return layout.image(image, config_type="application/vnd.cncf.helm.config.v1+json")
    return layout.blob(b"<x/>", "application/xml")


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize(
    "kind", ["attestation", "unknown platform", "in-toto", "empty configuration", "chart", "unknown media type"]
)
async def test_what_is_no_image(kind: str, nested: bool, layout: Layout) -> None:
    image = made()
    entries = [layout.image(image), artifact(layout, kind)]
    layout.index(*([layout.nested(*entries)] if nested else entries))
    found = await opened(layout).images()
    assert [each.id for each in found] == [image.id]
    assert found.damaged == ()


async def test_the_same_image_in_two_manifests(layout: Layout) -> None:
    """Once with gzip, once with zstd: one image with both names; where a blob is lost, the other one is there."""
    first, second = made(compression="gzip"), made(compression="zstd")
    one, two = layout.image(first, annotations=tag("1")), layout.image(second, annotations=tag("2"))
    layout.index(one, two)
    store = opened(layout)
    (found,) = await store.images()
    assert sorted(name.familiar for name in found.names) == ["shop:1", "shop:2"]
    assert found.manifest == layout.path(one).read_bytes()
    assert found.layers[0].blob is not None
    layout.path({"digest": found.layers[0].blob.descriptor.digest}).unlink()
    (found,) = await store.images()
    assert found.manifest == layout.path(two).read_bytes()
    for text in (found.layers[0].diff_id, found.layers[1].chain_id):
        assert (await store.layer(text)).blob is not None


@pytest.mark.parametrize("manifests", [[], None])
async def test_an_empty_layout(manifests: object, layout: Layout) -> None:
    layout.index(manifests=manifests)
    store = opened(layout)
    assert (len(await store.images()), len(await store.layers()), len(await store.containers())) == (0, 0, 0)
    assert await store.named("shop") == []
    with pytest.raises(NotFound):
        await store.image("shop")
    with pytest.raises(NotFound):
        await store.container("box")


async def test_images_without_layers(layout: Layout) -> None:
    image = images.image()
    layout.index(layout.image(image, annotations=tag("1")))
    found = await opened(layout).image("shop:1")
    assert (found.id, found.layers) == (image.id, ())
    assert len(await exports.body(plan_rootfs(found, "shop:1", Options()))) == 1024


async def test_file_systems_are_for_stores_that_unpack(layout: Layout) -> None:
    layout.index(layout.image(made(), annotations=tag("1")))
    found = await opened(layout).image("shop:1")
    with pytest.raises(Unsupported, match="not unpacked"):
        plan_rootfs(found, "shop:1", Options())
    with pytest.raises(Unsupported, match="not unpacked"):
        plan_layer(found.layers[0], Options(exclude=("etc",)))


async def test_a_prefix_of_several(layout: Layout) -> None:
    many = [made(str(number)) for number in range(20)]
    layout.index(*(layout.image(each) for each in many))
    first = sorted(each.id for each in many)
    pair = next(pair for pair in pairwise(first) if pair[0][7] == pair[1][7])
    with pytest.raises(Ambiguous):
        await opened(layout).image(pair[0][7])


async def test_it_is_read_anew_for_every_question(layout: Layout) -> None:
    first, second = made("1"), made("2")
    layout.index(layout.image(first, annotations=tag("1")))
    store = opened(layout)
    assert (await store.image("shop:1")).id == first.id
    layout.index(layout.image(second, annotations=tag("1")))
    assert (await store.image("shop:1")).id == second.id


async def test_through_a_link_that_the_caller_named(layout: Layout, tmp_path: Path) -> None:
    layout.index(layout.image(made(), annotations=tag("1")))
    (tmp_path / "link").symlink_to(layout.root)
    store = oci_layout("s", tmp_path / "link")
    assert store.location == f"oci-layout:{tmp_path}/link"
    found = await store.image("link:1")
    assert len(await exports.body(plan_layer(found.layers[0], Options()))) == len(BASE)


def test_opening_looks_at_nothing(tmp_path: Path) -> None:
    assert oci_layout("s", tmp_path / "none").name == "s"
