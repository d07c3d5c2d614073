"""Layers and saved images, whatever is in them: every span is that slice of the whole, known by the same version."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from support import images
from support.docker_roots import DockerRoot
from support.images import Member, directory, file, layer, symlink
from support.outlines import edges, outlined

from streamer.export.image import Format, plan_images
from streamer.export.layer import plan_layer
from streamer.export.plan import ExportPlan, Options
from streamer.stores.catalog import Catalog
from streamer.stores.docker.store import docker_store

SIZES = st.one_of(
    st.integers(0, 1100), st.sampled_from([512, 1024, (256 << 10) + 1, 1 << 20, (1 << 20) + 1, 3_000_000])
)
NAMES = st.sampled_from(["a", "b.txt", "d/x", "d/y", "d/e/z", "ü", "n" * 120, "d/" + "m" * 101])


@st.composite
def layers(draw: st.DrawFn) -> bytes:
    members: list[Member] = [directory("d/"), directory("d/e/")]
    for name in draw(st.lists(NAMES, unique=True, max_size=5)):
        if draw(st.booleans()) or draw(st.booleans()):
            members.append(file(name, draw(st.binary(min_size=1, max_size=3)) * draw(SIZES)))
        else:
            members.append(symlink(name, "elsewhere"))
    return layer(
        *members, end=draw(st.sampled_from([bytes(1024), bytes(512), b"", bytes(10240), bytes(1024) + b"more"]))
    )


IMAGES = st.lists(layers(), min_size=1, max_size=3)


@settings(max_examples=60, deadline=None)
@given(st.lists(IMAGES, min_size=1, max_size=2), st.sampled_from(Format), st.data())
def test_every_span_is_that_slice_of_the_whole(made: list[list[bytes]], format: Format, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = DockerRoot(Path(folder) / "docker")
        root.add(*(images.image(*each, names=[f"i{number}:1"]) for number, each in enumerate(made)))
        for plan in asyncio.run(_plans(root, len(made), format)):
            with outlined(plan) as outline, outlined(plan) as again:
                assert outline.etag == again.etag
                whole = b"".join(outline.part((0, outline.size)))
                assert len(whole) == outline.size == plan.length
                assert plan.digest in (None, images.sha256(whole))
                places = st.one_of(
                    st.integers(0, outline.size),
                    st.builds(
                        lambda edge, n: min(max(edge + n, 0), outline.size),
                        st.sampled_from(edges(whole)),
                        st.integers(-2, 2),
                    ),
                )
                for _ in range(6):
                    start, stop = sorted((data.draw(places), data.draw(places)))
                    chunks = list(outline.part((start, stop)))
                    assert b"".join(chunks) == whole[start:stop]
                    assert all(len(chunk) <= 2 << 20 for chunk in chunks)


async def _plans(root: DockerRoot, number: int, format: Format) -> list[ExportPlan]:
    store = docker_store("d", root.path)
    names = [f"i{each}:1" for each in range(number)]
    plans = [plan_layer(each, Options()) for each in (await store.image(names[0])).layers]
    return [await plan_images(Catalog({"d": store}), names, Options(), format), *plans]
