"""What programs change in a running container, exported as a diff and put on its image by an engine, gives the tree
that was seen inside: of every engine's containers, with and without the kernel's redirects and metacopies."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from support import boxes, exports, images
from support.archives import entries, same_tree, unpacked
from support.boxes import Box, Engine
from support.engines import Command
from support.overlays import PARAMETERS, parameters
from support.views import INIT, INIT_PARENTS, Viewer

from streamer.export.container import plan_container
from streamer.export.diff import plan_changes, plan_diff
from streamer.export.layer import plan_layer
from streamer.export.plan import Options
from streamer.stores.base import Container

pytestmark = [pytest.mark.engine, pytest.mark.root]

CHANGED = "docker.io/work/changed:1"
MARKS = {"redirect_dir": "redirect", "metacopy": "metacopy"}


@contextmanager
def overlays(*features: str) -> Iterator[None]:
    """Overlays mounted meanwhile have just these features, whoever mounts them: the engines leave it to the kernel."""
    with parameters(change=True):
        before = {name: (PARAMETERS / name).read_text() for name in ("redirect_dir", "metacopy")}
        try:
            for name in before:
                (PARAMETERS / name).write_text("Y" if name in features else "N")
            yield
        finally:
            for name, value in before.items():
                (PARAMETERS / name).write_text(value)


@dataclass
class Changed:
    """A changed container: the tree seen in it, and what streamer gave of it while it ran and once it was stopped."""

    engine: Engine
    tree: Path
    layers: list[bytes]
    diff: bytes
    stopped: bytes
    whole: bytes
    changes: dict[str, str]
    marks: set[str]


Case = tuple[str, tuple[str, ...]]

NONE: tuple[str, ...] = ()
REDIRECTS, ALL = ("redirect_dir",), ("redirect_dir", "metacopy")  # there is no metacopy without redirects
CASES: list[Case] = [(name, features) for name in ("docker", "podman", "ctr") for features in (NONE, ALL)]
APPLIED: list[tuple[Case, str]] = [
    (case, by)
    for case in CASES
    for by in ("docker", "podman", "ctr", "umoci")
    if not case[1] or by in (case[0], "umoci")
]
APPLIED.append((("docker", REDIRECTS), "umoci"))
IMPORTED: list[tuple[Case, str]] = [
    (("docker", NONE), "docker"),
    (("podman", NONE), "podman"),
    (("ctr", ALL), "docker"),
]


def _named(value: Case | str) -> str:
    return value if isinstance(value, str) else "-".join((value[0], *value[1]))


def on(cases: list[tuple[Case, str]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("changed", "by"), cases, indirect=["changed"], ids=_named)


@pytest.fixture(scope="module")
def made() -> dict[Case, Changed]:
    """Each case is made once, whatever the order of the tests."""
    return {}


@pytest.fixture
def changed(
    made: dict[Case, Changed], request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Changed:
    name, features = request.param
    if request.param not in made:
        engine = boxes.engine(name, request)
        with ExitStack() as stack:
            with overlays(*features):
                box = stack.enter_context(engine.box(engine.built))
            found = asyncio.run(_changed(engine, box, tmp_path_factory.mktemp(name)))
        assert found.marks == {f"trusted.overlay.{MARKS[feature]}" for feature in features}
        made[request.param] = found
    return made[request.param]


async def _changed(engine: Engine, box: Box, place: Path) -> Changed:
    box.change()
    tree = box.seen(place / "tree")
    async with engine.store() as store:
        layers = [await exports.body(plan_layer(each, Options())) for each in (await store.image(engine.built)).layers]
        container = await store.container(box.name)
        diff, whole = [await exports.body(plan(container, Options())) for plan in (plan_diff, plan_container)]
        changes = json.loads(await exports.body(plan_changes(container)))
        marks = await asyncio.to_thread(_marks, container)
        engine.stop(box.name)
        stopped = await exports.body(plan_diff(await store.container(box.name), Options()))
    return Changed(engine, tree, layers, diff, stopped, whole, {each["path"]: each["kind"] for each in changes}, marks)


def _marks(container: Container) -> set[str]:
    """What the kernel wrote into the container's own directory beside whiteouts and opaque directories."""
    with container.held() as (snapshot, _):
        assert snapshot.upper is not None
        names = {
            name
            for folder, _, files in os.walk(snapshot.upper)
            for path in (folder, *(os.path.join(folder, each) for each in files))
            for name in os.listxattr(path, follow_symlinks=False)
        }
    return names & {f"trusted.overlay.{mark}" for mark in MARKS.values()}


@pytest.mark.parametrize("changed", CASES, indirect=True, ids=_named)
def test_stopped(changed: Changed) -> None:
    assert changed.stopped == changed.diff


@on(APPLIED)
def test_diff_on_its_image(by: str, changed: Changed, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    made = images.image(*changed.layers, changed.diff, names=[CHANGED])
    files = images.both(made)
    index = files["index.json"]
    assert isinstance(index, bytes)
    # umoci finds an image by this one.
    both = index.replace(b'"io.containerd', b'"org.opencontainers.image.ref.name": "1", "io.containerd')
    archive = tmp_path / "image.tar"
    archive.write_bytes(images.pack({**files, "index.json": both}))
    with Viewer(by, request, tmp_path).of(archive, CHANGED) as view:
        assert view.id == made.id
        _same(view.tree, changed, view.without, view.untimed)


@on(IMPORTED)
def test_whole_container_as_an_image(by: str, changed: Changed, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """`import` makes one layer of the archive as it is."""
    engine: Command = request.getfixturevalue(by)
    (tmp_path / "whole.tar").write_bytes(changed.whole)
    identity = engine.text("import", tmp_path / "whole.tar")
    found = engine.json("image", "inspect", identity)[0]
    container = engine.text("create", identity, "/none")
    try:
        assert found["RootFS"]["Layers"] == ["sha256:" + hashlib.sha256(changed.whole).hexdigest()]
        exported = unpacked(engine("export", container), tmp_path / "exported")
        _same(exported, changed, INIT if by == "docker" else (), INIT_PARENTS if by == "docker" else ())
    finally:
        engine("rm", container)
        engine("rmi", identity)


def _same(tree: Path, changed: Changed, without: tuple[bytes, ...], untimed: tuple[bytes, ...]) -> None:
    init = changed.engine.init
    same_tree(
        tree,
        changed.tree,
        seconds=True,
        without=(*without, *init),
        untimed=(*untimed, *(INIT_PARENTS if init else ())),
    )


@pytest.mark.parametrize("changed", CASES, indirect=True, ids=_named)
def test_diff_holds_changes_only(changed: Changed) -> None:
    names = {record.name for record in entries(changed.diff)}
    assert b"bin/busybox" not in names
    assert b"names/" + b"n" * 99 not in names
    assert {b"gone/.wh.file", b"gone/.wh.directory", b".wh.a-hard-name-elsewhere", b"links/.wh.five"} <= names
    assert changed.changes["/gone/file"] == "D"
    assert changed.changes["/attributes/mode"] == "C"
    assert changed.changes["/new/deep/er/file"] == "A"
