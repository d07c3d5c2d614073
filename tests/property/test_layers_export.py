"""An archive made from layers is the one made from a mount of them, whichever way the layers are read: whole, in any
part, and from any place below."""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from property.test_changeset_overlay import PATHS, attempt, lowers, mutations, roots
from support import overlays

from streamer import native
from streamer.changeset.layers import Layers
from streamer.drivers.base import Tree
from streamer.drivers.trees import Merged, _Mounted
from streamer.errors import StreamerError
from streamer.export import outline as outlines
from streamer.export.items import Pass
from streamer.export.plan import Options, Report, Session
from streamer.export.runs import items
from streamer.export.walked import Walked
from streamer.mounts.table import MountTable

pytestmark = pytest.mark.root


def walked(tree: Tree, options: Options) -> Walked:
    @contextmanager
    def opened(session: Session) -> Iterator[Pass]:
        yield lambda cursor, resume: items(tree, options, session, cursor, resume, ids=None, live=False)

    return Walked(opened, options, "layers")


def archive(tree: Tree, options: Options) -> bytes | str:
    """The bytes, or the code of what was raised in place of them."""
    try:
        return b"".join(walked(tree, options).chunks(None, session()))
    except StreamerError as error:
        return error.code


def session() -> Session:
    return Session(MountTable(), Report(), lambda: None)


@pytest.mark.skipif(not native.available(), reason="there is no compiled walk")
@pytest.mark.parametrize("options", ["index=off", "index=off,redirect_dir=on,metacopy=on"])
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(base_items=lowers, middle=mutations, top=mutations, path=st.sampled_from([b"", *PATHS]), seed=st.integers())
def test_three_ways_to_read_layers_are_one(
    options: str, base_items: list[object], middle: list[object], top: list[object], path: bytes, seed: int
) -> None:
    overlays.require()
    with (
        tempfile.TemporaryDirectory() as scratch,
        ExitStack() as stack,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(outlines, "_GRAIN", 0)
        patch.setattr(outlines, "_STRIDE", 2048)
        place = os.fsencode(scratch)
        layers = [os.path.join(place, name) for name in (b"upper", b"mid", b"bottom")]
        for each in layers:
            os.mkdir(each)
        attempt(layers[2], base_items)
        with overlays.mounted(layers[2:], layers[1], options=options) as merged:
            attempt(merged, middle)
        with overlays.mounted(layers[1:], layers[0], options=options) as merged:
            attempt(merged, top)
        mount = stack.enter_context(overlays.mounted(layers, options=options))
        fds = stack.enter_context(roots(*layers, mount))
        lower = stack.enter_context(Layers(fds[:3]))
        mounted, swift = _Mounted(fds[3], overlay=True, live=False), Merged(lower)
        for chosen in (Options(), Options(path=path)):
            expected = archive(mounted, chosen)
            made = archive(swift, chosen)
            assert made == expected
            if isinstance(made, str):
                continue
            with walked(swift, chosen).outline(None, session()) as outline:
                assert outline.size == len(made)
                chance = random.Random(seed)
                for _ in range(8):
                    start = chance.randrange(len(made))
                    stop = min(len(made), start + chance.choice([1, 512, 3000, 1 << 30]))
                    assert b"".join(outline.part((start, stop))) == made[start:stop], (start, stop)
            patch.setattr(native, "available", lambda: False)
            assert archive(swift, chosen) == made
            with walked(swift, chosen).outline(None, session()) as again:
                assert (again.size, again.etag) == (outline.size, outline.etag)
            patch.undo()
            patch.setattr(outlines, "_GRAIN", 0)
            patch.setattr(outlines, "_STRIDE", 2048)
