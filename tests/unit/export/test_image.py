"""Saved images: length, version and every span are known from the members alone, and end with every layer checked."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from support import exports, images, leaks, outlines
from support.docker_roots import DockerRoot
from support.images import MadeImage, directory, file, layer
from support.layouts import Layout, tag
from support.outlines import edges, outlined, part

from streamer.errors import ConsumerGone, SourceChanged, StoreDamaged
from streamer.export.exporter import exporter
from streamer.export.image import Format, plan_images
from streamer.export.plan import Choice, ExportPlan, Options
from streamer.stores.base import Image, Store
from streamer.stores.catalog import Catalog
from streamer.stores.docker.store import docker_store
from streamer.stores.local.store import LocalStore
from streamer.stores.oci_layout.store import oci_layout

LARGE = random.Random(4).randbytes(1_400_000)
BASE = layer(directory("etc/"), file("etc/passwd", b"root"), file("large", LARGE))
ONE = images.image(BASE, layer(file("tool", b"1" * 700)), names=["one:1", "one:2"])
TWO = images.image(BASE, layer(file("tool", b"2")), layer(), names=["two:1"])


@dataclass
class Shop:
    """A store that holds both images; `of` is the directory or file that a layer lies in."""

    store: Store
    of: Callable[[str], Path]
    names: list[str] = field(default_factory=lambda: ["one:1", "one:2", "two:1"])

    async def plan(self, format: Format, *names: str) -> ExportPlan:
        return await plan_images(Catalog({"s": self.store}), names or self.names, Options(), format)


@asynccontextmanager
async def local(place: Path) -> AsyncIterator[Shop]:
    async with LocalStore.open(place / "state") as store:
        await store.import_archive(images.Bytes(images.pack(images.docker(ONE, TWO))))
        yield Shop(store, lambda chain: place / "state/layers" / chain[7:])


@asynccontextmanager
async def docker(place: Path) -> AsyncIterator[Shop]:
    root = DockerRoot(place / "docker").add(ONE, TWO)
    yield Shop(docker_store("d", root.path), root.layer)


def layout(compression: str) -> Callable[[Path], object]:
    @asynccontextmanager
    async def opened(place: Path) -> AsyncIterator[Shop]:
        made = Layout(place / "layout")
        named = []
        for number, each in enumerate((ONE, TWO)):
            each = replace(each, compression=compression)
            named.append(made.image(each, annotations=tag(str(number))))
        made.index(*named)
        paths = {
            chain: made.path({"digest": images.sha256(data)})
            for each in (ONE, TWO)
            for chain, data in zip(
                images.chain_ids(each.diff_ids), replace(each, compression=compression).blobs(), strict=True
            )
        }
        yield Shop(oci_layout("s", made.root), paths.__getitem__, [ONE.id, "layout:1"])

    return opened


SHOPS = {"local": local, "docker": docker, "plain": layout("none"), "gzip": layout("gzip"), "zstd": layout("zstd")}
CASES = [(shop, format) for shop in SHOPS for format in Format if shop not in ("gzip", "zstd") or format is Format.OCI]


@dataclass
class Case:
    shop: Shop
    format: Format
    plan: ExportPlan
    whole: bytes


@pytest.fixture(params=CASES, ids=lambda case: "-".join(case))
async def case(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Case]:
    name, format = request.param
    async with AsyncExitStack() as stack:
        shop = await stack.enter_async_context(SHOPS[name](tmp_path))  # type: ignore[arg-type]
        plan = await shop.plan(format)
        yield Case(shop, format, plan, await exports.body(plan))


async def test_length_and_version_are_known_beforehand(case: Case) -> None:
    with outlined(case.plan) as outline:
        assert outline.size == len(case.whole) == case.plan.length
    again = await case.shop.plan(case.format)
    with outlined(again) as other:
        assert (outline.size, outline.etag) == (other.size, other.etag)


async def test_other_bytes_have_another_version(case: Case) -> None:
    plans = [
        await case.shop.plan(format, *names) for format in Format for names in ([ONE.id], [TWO.id], [TWO.id, ONE.id])
    ]
    found: dict[str, bytes] = {}
    for plan in plans:
        if plan.outline is not None:
            with outlined(plan) as outline:
                body = b"".join(outline.part((0, outline.size)))
                assert found.setdefault(outline.etag, body) == body
    assert len(found) == len(set(found.values())) == sum(plan.outline is not None for plan in plans)


async def test_a_version_follows_from_the_bytes_alone(tmp_path: Path) -> None:
    """Two stores that give the same archive give the same version."""
    async with local(tmp_path / "one") as one, local(tmp_path / "two") as two:
        plans = [await shop.plan(Format.OCI) for shop in (one, two)]
        with outlined(plans[0]) as first, outlined(plans[1]) as second:
            assert first.etag == second.etag
            assert part(plans[0]) == part(plans[1])


async def test_spans(case: Case) -> None:
    before = leaks.held()
    for start, stop in outlines.spans(case.whole, 120):
        assert part(case.plan, start, stop) == case.whole[start:stop], (start, stop)
    assert leaks.held().beyond(before) == []


async def test_a_byte_beside_every_edge(case: Case) -> None:
    with outlined(case.plan) as outline:
        for edge in edges(case.whole):
            for start in (edge - 1, edge):
                if 0 <= start < len(case.whole):
                    assert b"".join(outline.part((start, start + 1))) == case.whole[start : start + 1]


async def test_through_an_exporter(case: Case) -> None:
    size = len(case.whole)
    async with exporter() as exporting:
        for span in ((0, size), (size // 3, size - 1), (size - 1, size)):
            async with exporting.open(case.plan, Choice(lambda _, span=span: span)) as stream:  # type: ignore[misc]
                assert b"".join([chunk async for chunk in stream]) == case.whole[span[0] : span[1]]


async def test_nothing_is_made_that_lies_before_or_behind(case: Case) -> None:
    """Layers outside of the span cannot even be read."""
    image = await case.shop.store.image(ONE.id)
    asked: list[str] = []
    plan = await _with_layers(case, image, asked)
    with outlined(plan) as outline:
        whole = b"".join(outline.part((0, outline.size)))
        reads = list(asked)
        assert len(reads) == 2
        asked.clear()
        tail = outline.size - 2000
        assert b"".join(outline.part((tail, outline.size))) == whole[tail:]
        assert b"".join(outline.part((0, 512))) == whole[:512]
        assert asked == []
        at = whole.index(LARGE[:100]) if LARGE[:100] in whole else None
        if at is not None:
            list(outline.part((at, at + 1)))
            assert len(asked) == 1


async def _with_layers(case: Case, image: Image, asked: list[str]) -> ExportPlan:
    def noting(name: str, read: object) -> object:
        def reading(start: int = 0, stop: int | None = None, /) -> object:
            asked.append(name)
            return read(start, stop)  # type: ignore[operator]

        return reading

    layers = []
    for each in image.layers:
        blob = each.blob and replace(each.blob, read=noting(each.diff_id, each.blob.read))
        layers.append(replace(each, blob=blob, assemble=noting(each.diff_id, each.assemble)))
    return await plan_images(
        Catalog({"s": _One(replace(image, layers=tuple(layers)))}), [image.id], Options(), case.format
    )  # type: ignore[dict-item]


@dataclass
class _One:
    """A store of one image."""

    found: Image
    name: str = "s"
    location: str = "s:"

    async def image(self, reference: str) -> Image:
        return self.found


@pytest.mark.parametrize("format", Format)
@pytest.mark.parametrize("compression", ["gzip", "zstd"])
async def test_nothing_is_known_with_layers_of_unknown_length(format: Format, compression: str, tmp_path: Path) -> None:
    async with SHOPS[compression](tmp_path) as shop:  # type: ignore[attr-defined]
        plan = await shop.plan(format)
        assert (plan.outline is None) == (format is Format.DOCKER_LEGACY) == (plan.length is None)
        assert len(await exports.body(plan))


@pytest.mark.parametrize("format", Format)
async def test_an_image_without_layers_and_one_without_a_name(format: Format, tmp_path: Path) -> None:
    bare: list[MadeImage] = [images.image()] if format is Format.OCI else [images.image(layer())]
    async with LocalStore.open(tmp_path / "state") as store:
        await store.import_archive(images.Bytes(images.pack(images.oci(*bare))))
        plan = await plan_images(Catalog({"s": store}), [bare[0].id], Options(), format)
        whole = await exports.body(plan)
        assert [part(plan, at, at + 1) for at in range(0, len(whole), 97)] == [
            whole[at : at + 1] for at in range(0, len(whole), 97)
        ]
        assert part(plan, len(whole), len(whole)) == part(plan, 0, 0) == b""


@pytest.mark.parametrize("taken", range(3))
async def test_who_leaves_leaves_nothing(case: Case, taken: int) -> None:
    before = leaks.held()
    with outlined(case.plan) as outline:
        for start in (0, 700, len(case.whole) // 2):
            chunks = outline.part((start, outline.size))
            for _ in zip(range(taken), chunks, strict=False):
                pass
            chunks.close()  # type: ignore[attr-defined]
            assert leaks.held().beyond(before) == []


async def test_who_is_gone_is_noticed_between_members(case: Case) -> None:
    calls = 0

    def gone() -> None:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise ConsumerGone("gone")

    assert case.plan.outline is not None
    with case.plan.outline(outlines.session(gone), 0) as outline, pytest.raises(ConsumerGone):
        list(outline.part((0, outline.size)))


# Broken sources


def _removed(path: Path) -> None:
    path.rename(path.with_name("removed"))


@pytest.mark.parametrize("which", [0, 1])
async def test_a_layer_that_was_removed(case: Case, which: int) -> None:
    """Whether or not any of it is wanted: this version of the image can no longer be had."""
    size = len(case.whole)
    before = leaks.held()
    with outlined(case.plan) as outline:
        _removed(case.shop.of(images.chain_ids(ONE.diff_ids)[which]))
        for span in ((0, size), (0, 1), (size - 1, size), (size // 2, size // 2 + 1), (size - 600, size)):
            with pytest.raises((SourceChanged, StoreDamaged)):
                list(outline.part(span))
    with pytest.raises((SourceChanged, StoreDamaged)):
        await exports.body(case.plan)
    assert await leaks.settles(before) == []


async def test_a_layer_that_is_removed_while_another_is_read(case: Case) -> None:
    size, given = len(case.whole), 0
    with outlined(case.plan) as outline, pytest.raises((SourceChanged, StoreDamaged)):
        for chunk in outline.part((0, size)):
            if not given:
                _removed(case.shop.of(images.chain_ids(TWO.diff_ids)[1]))
            given += len(chunk)
    assert given < size


def _cut(data: bytes) -> bytes:
    return data[:-1]


def _longer(data: bytes) -> bytes:
    return data + b"x"


def _other(data: bytes) -> bytes:
    return bytes([data[0] ^ 1]) + data[1:]


@pytest.mark.parametrize("change", [_cut, _longer, _other])
@pytest.mark.parametrize("shop", SHOPS)
async def test_a_layer_with_other_bytes(shop: str, change: Callable[[bytes], bytes], tmp_path: Path) -> None:
    """The files of stores that keep files, the blob of those that keep blobs."""
    async with SHOPS[shop](tmp_path) as opened:  # type: ignore[attr-defined]
        plan = await opened.plan(Format.OCI, ONE.id)
        whole = await exports.body(plan)
        with outlined(plan) as outline:
            chain = images.chain_ids(ONE.diff_ids)[1]
            for path in _bytes_of(opened, shop, chain, tmp_path):
                path.write_bytes(change(path.read_bytes()))
            spans = [(0, len(whole))]
            if b"1" * 700 in whole:
                at = whole.index(b"1" * 700)
                spans += [(at, at + 700), (at + 699, at + 700), (at, at + 1)] if change is not _other else []
            for span in spans:
                with pytest.raises((SourceChanged, StoreDamaged)):
                    list(outline.part(span))
        with pytest.raises((SourceChanged, StoreDamaged)):
            await exports.body(plan)


def _bytes_of(shop: Shop, kind: str, chain: str, place: Path) -> list[Path]:
    if kind in ("local", "docker"):
        return [path for path in place.glob("**/diff/tool") if path.read_bytes() == b"1" * 700]
    return [shop.of(chain)]
