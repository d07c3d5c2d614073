"""Layers given back as they came in: known beforehand by their diff ID, whole or any span of them."""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from support import exports, images, leaks, outlines
from support.docker_roots import DockerRoot
from support.images import directory, file, layer, symlink, whiteout
from support.layouts import Layout, tag
from support.outlines import outlined, part

from streamer.errors import SourceChanged, StoreDamaged
from streamer.export.exporter import exporter
from streamer.export.layer import plan_layer
from streamer.export.plan import Choice, Options
from streamer.stores.base import Layer, Reading
from streamer.stores.docker.store import docker_store
from streamer.stores.local.store import LocalStore
from streamer.stores.oci_layout.store import oci_layout

LARGE = random.Random(3).randbytes(2_500_000)
DATA = layer(
    directory("etc/"),
    file("etc/passwd", b"root"),
    file("etc/empty"),
    file("etc/large", LARGE),
    symlink("etc/link", "passwd"),
    file("etc/" + "n" * 120, b"long" * 300),
    file("last", b"l" * 512),
)
MADE = images.image(DATA, names=["a:1"])


@dataclass
class Kept:
    """One layer of some store: `path` is where its directory or blob lies; `removed` does what its engine would do."""

    layer: Layer
    path: Path
    removed: Callable[[], object]

    def file(self, name: str) -> Path:
        return self.path / "diff" / name


@asynccontextmanager
async def local(place: Path) -> AsyncIterator[Kept]:
    async with LocalStore.open(place / "state") as store:
        await store.import_archive(images.Bytes(images.pack(images.docker(MADE))))
        (found,) = (await store.image("a:1")).layers
        folder = place / "state/layers" / found.chain_id[7:]
        yield Kept(found, folder, lambda: folder.rename(place / "trash"))


@asynccontextmanager
async def docker(place: Path) -> AsyncIterator[Kept]:
    root = DockerRoot(place / "docker").add(MADE)
    (found,) = (await docker_store("d", root.path).image("a:1")).layers
    stored = root.layer(found.chain_id)
    yield Kept(found, root.diff(found.chain_id).parent, lambda: stored.rename(stored.with_name("x-removing")))


@asynccontextmanager
async def blob(place: Path) -> AsyncIterator[Kept]:
    layout = Layout(place / "layout")
    made = replace(MADE, compression="none")
    layout.index(layout.image(made, annotations=tag("1")))
    (found,) = (await oci_layout("s", layout.root).image(made.id)).layers
    path = layout.path({"digest": found.diff_id})
    yield Kept(found, path, path.unlink)


STORES = {"local": local, "docker": docker, "blob": blob}
FILES = ("local", "docker")
"""Those that keep a layer as files."""


@pytest.fixture(params=STORES)
async def kept(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Kept]:
    async with STORES[request.param](tmp_path) as found:
        yield found


@pytest.fixture(params=FILES)
async def files(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Kept]:
    async with STORES[request.param](tmp_path) as found:
        yield found


async def test_what_is_known_beforehand(kept: Kept) -> None:
    plan = plan_layer(kept.layer, Options())
    with outlined(plan) as outline:
        assert outline.size == len(DATA) == plan.length
        assert outline.etag == kept.layer.diff_id == images.sha256(DATA)


async def test_any_span(kept: Kept) -> None:
    before = leaks.held()
    plan = plan_layer(kept.layer, Options())
    for start, stop in outlines.spans(DATA):
        assert part(plan, start, stop) == DATA[start:stop], (start, stop)
    assert leaks.held().beyond(before) == []


async def test_chunks_are_few_and_large(kept: Kept) -> None:
    with outlined(plan_layer(kept.layer, Options())) as outline:
        for span in ((0, len(DATA)), (1000, len(DATA) - 1)):
            chunks = list(outline.part(span))
            assert len(chunks) <= 1 + 2 * len(DATA) // (256 << 10)
            assert max(map(len, chunks)) <= 1 << 20


async def test_through_an_exporter(kept: Kept) -> None:
    plan = plan_layer(kept.layer, Options())
    assert await exports.body(plan) == DATA
    async with exporter() as exporting:
        for span in ((0, len(DATA)), (600, 2_000_000), (len(DATA), len(DATA)), None):
            async with exporting.open(plan, Choice(lambda _, span=span: span)) as stream:  # type: ignore[misc]
                body = b"".join([chunk async for chunk in stream])
            assert stream.span == span
            assert body == (DATA[span[0] : span[1]] if span else b"")


@pytest.mark.parametrize("taken", range(4))
async def test_who_leaves_leaves_nothing(kept: Kept, taken: int) -> None:
    before = leaks.held()
    with outlined(plan_layer(kept.layer, Options())) as outline:
        for span in ((0, len(DATA)), (700, len(DATA)), (2_000_000, len(DATA))):
            chunks = outline.part(span)
            for _ in zip(range(taken), chunks, strict=False):
                pass
            chunks.close()  # type: ignore[attr-defined]
            assert leaks.held().beyond(before) == []


@pytest.mark.parametrize("options", [Options(mtime=5), Options(exclude=("x",)), Options(path=b"etc")])
async def test_other_entries_have_another_outline(files: Kept, options: Options) -> None:
    plan = plan_layer(files.layer, options)
    assert plan.digest is None
    if plan.outline is not None and files.layer.snapshot is not None:
        with outlined(plan) as outline:
            assert outline.etag != files.layer.diff_id


async def test_nothing_is_known_of_a_layer_of_unknown_length(kept: Kept) -> None:
    assert plan_layer(replace(kept.layer, size=None), Options()).outline is None


# Broken sources: never other bytes, never fewer


def other_size(kept: Kept) -> None:
    kept.file("etc/passwd").write_bytes(b"roots")


def cut(kept: Kept) -> None:
    os.truncate(kept.file("etc/large"), len(LARGE) - 1)


def vanished(kept: Kept) -> None:
    kept.file("etc/large").unlink()


def linked(kept: Kept) -> None:
    vanished(kept)
    kept.file("etc/large").symlink_to("/etc/passwd")


def fifo(kept: Kept) -> None:
    vanished(kept)
    os.mkfifo(kept.file("etc/large"))


def folder_gone(kept: Kept) -> None:
    kept.file("etc").rename(kept.file("elsewhere"))


def other_content(kept: Kept) -> None:
    kept.file("etc/passwd").write_bytes(b"toor")


def other_large_content(kept: Kept) -> None:
    with kept.file("etc/large").open("r+b") as opened:
        opened.write(b"changed")


AT = {name: DATA.index(content) for name, content in (("passwd", b"root"), ("large", LARGE))}
END = AT["large"] + len(LARGE)
PASSWD = [(0, len(DATA)), (AT["passwd"], AT["passwd"] + 4), (AT["passwd"] + 3, AT["passwd"] + 4), (0, AT["passwd"] + 1)]
INSIDE = [(0, len(DATA)), (AT["large"], END), (AT["large"] + 5, AT["large"] + 6), (END - 1, len(DATA))]
BROKEN = [
    (other_size, PASSWD),
    (other_content, PASSWD),
    (cut, INSIDE),
    (vanished, INSIDE),
    (linked, INSIDE),
    (fifo, INSIDE),
    (folder_gone, [*PASSWD, *INSIDE]),
    # Of a large file that lies partly in the span only the size is compared.
    (other_large_content, INSIDE[:2]),
]


@pytest.mark.parametrize(("broken", "touching"), BROKEN, ids=lambda each: getattr(each, "__name__", ""))
async def test_a_file_that_is_not_what_it_was(
    files: Kept, broken: Callable[[Kept], None], touching: list[tuple[int, int]]
) -> None:
    before = leaks.held()
    with outlined(plan_layer(files.layer, Options())) as outline:
        broken(files)
        for span in touching:
            with pytest.raises(SourceChanged):
                list(outline.part(span))
    assert part(plan_layer(files.layer, Options()), 0, 512) == DATA[:512], "what it does not touch is as it was"
    with pytest.raises(SourceChanged):
        await exports.body(plan_layer(files.layer, Options()))
    assert await leaks.settles(before) == []


@pytest.mark.parametrize("span", [(0, len(DATA)), (600, 601), (0, 512), (len(DATA) - 1, len(DATA)), (0, 0)])
async def test_a_layer_that_was_removed(kept: Kept, span: tuple[int, int]) -> None:
    """Whatever part of it was wanted, and whether or not anything of it had to be read."""
    with outlined(plan_layer(kept.layer, Options())) as outline:
        kept.removed()
        with pytest.raises((SourceChanged, StoreDamaged)):
            list(outline.part(span))


@pytest.mark.parametrize("span", [(0, len(DATA)), (100, len(DATA) - 100)])
async def test_a_layer_that_is_removed_while_it_is_read(kept: Kept, span: tuple[int, int]) -> None:
    """The last chunk does not leave: a body that was announced never has its length."""
    given = 0
    with outlined(plan_layer(kept.layer, Options())) as outline, pytest.raises(SourceChanged):
        for chunk in outline.part(span):
            if not given:
                kept.removed()
            given += len(chunk)
    assert 0 < given < span[1] - span[0]


async def test_tar_split_data_that_was_lost(files: Kept) -> None:
    records = next(
        iter([*files.path.glob("tar-split*"), *files.path.parents[1].glob("image/*/layerdb/*/*/tar-split*")])
    )
    with outlined(plan_layer(files.layer, Options())) as outline:
        records.unlink()
        for span in ((0, len(DATA)), (0, 1), (len(DATA) - 1, len(DATA))):
            with pytest.raises((StoreDamaged, SourceChanged)):
                list(outline.part(span))


@pytest.mark.parametrize("size", [len(DATA) - 1, len(DATA) + 1, len(DATA) + 10_000])
async def test_a_length_that_the_store_has_wrong(kept: Kept, size: int) -> None:
    """Neither more nor fewer bytes than announced, whichever of them are wanted."""
    plan = plan_layer(replace(kept.layer, size=size), Options())
    for span in ((0, size), (5, size), (size - 1, size)):
        with pytest.raises(SourceChanged), outlined(plan) as outline:
            list(outline.part(span))
    with pytest.raises(SourceChanged):
        await exports.body(plan)


async def test_a_digest_that_the_bytes_do_not_have(kept: Kept) -> None:
    plan = plan_layer(replace(kept.layer, diff_id=images.sha256(b"another")), Options())
    async with exporter() as exporting:
        with pytest.raises(SourceChanged, match="digest"):
            async with exporting.open(plan, Choice(lambda outline: (0, outline.size))) as stream:
                async for _ in stream:
                    pass


async def test_odd_members_in_spans(tmp_path: Path) -> None:
    """Content that lies elsewhere in the embedded store than under its own name."""
    data = layer(
        file("a", b"first" * 200),
        file("a", b"second"),
        symlink("l", "d"),
        directory("d/"),
        file("l/x", LARGE),
        file("l/x", b"again" * 300),
        file(".wh.w", b"a whiteout should be empty"),
        file("./e/../b", b"dots"),
        whiteout("gone"),
    )
    async with LocalStore.open(tmp_path / "state") as store:
        made = images.image(data, names=["odd:1"])
        await store.import_archive(images.Bytes(images.pack(images.docker(made))))
        (found,) = (await store.image("odd:1")).layers
        plan = plan_layer(found, Options())
        for start, stop in outlines.spans(data, 80):
            assert part(plan, start, stop) == data[start:stop], (start, stop)


def test_a_source_that_gives_more_or_fewer_bytes_than_its_record_says() -> None:
    def gives(given: bytes) -> Reading:
        def read(start: int = 0, stop: int | None = None, /) -> Iterator[bytes]:
            yield given[start:stop]

        return read

    for given in (b"1234", b"123456", b""):
        promised = Layer("s", images.sha256(b"12345"), "sha256:c", size=5, assemble=gives(given))
        for span in ((0, 5), (1, 5), (4, 5)):
            with pytest.raises(SourceChanged), outlined(plan_layer(promised, Options())) as outline:
                list(outline.part(span))
