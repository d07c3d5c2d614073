"""A pulled-apart store: an error that names the file, and everything else still there."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from support import images
from support.handmade import Handmade
from support.images import directory, file, layer

from streamer.errors import NotPermitted, SourceChanged, StoreDamaged, StreamerError, Unsupported
from streamer.stores.assembly import open_records
from streamer.stores.base import Image, Store
from streamer.stores.containers_storage.options import StorageOptions
from streamer.stores.containers_storage.places import big_data
from streamer.stores.containers_storage.store import containers_storage

BASE = layer(directory("etc/"), file("etc/passwd", b"root"))
GOOD = images.image(BASE, layer(file("good", b"good")))
BAD = images.image(BASE, layer(file("bad", b"bad")))
TOP = images.encoded(f"{images.encoded(BASE)}+{images.encoded(BAD.layers[1])}".encode())
BAD_ID = images.encoded(BAD.data)


@pytest.fixture(params=["overlay", "vfs"])
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Handmade:
    """Images `good:1` and `bad:1`, and a container of each."""
    made = Handmade(tmp_path / "root", request.param)
    made.container("good", made.image(GOOD, "localhost/good:1"))
    made.container("bad", made.image(BAD, "localhost/bad:1"))
    made.save()
    return made


def opened(made: Handmade) -> Store:
    return containers_storage("s", made.root)


async def test_whole(made: Handmade) -> None:
    store = opened(made)
    assert {image.id for image in await store.images()} == {GOOD.id, BAD.id}
    assert {container.name for container in await store.containers()} == {"bad", "good"}
    for found in await store.layers():
        assert found.assemble is not None
        data = b"".join(found.assemble())
        assert (images.sha256(data), len(data)) == (found.diff_id, found.size)
        assert found.guard is not None
        found.guard()


def _config(made: Handmade) -> Path:
    return made.root / f"{made.driver}-images" / BAD_ID / big_data(BAD.id)


def _no_tree(made: Handmade) -> None:
    shutil.rmtree(made.tree(TOP))


def _tree_is_a_file(made: Handmade) -> None:
    _no_tree(made)
    made.tree(TOP).write_bytes(b"")


def _tree_leads_outside(made: Handmade) -> None:
    folder = made.root / "vfs/dir" / TOP if made.driver == "vfs" else made.root / "overlay" / TOP
    folder.rename(made.root.parent / "elsewhere")
    folder.symlink_to(made.root.parent / "elsewhere")


def _layer_not_listed(made: Handmade) -> None:
    made.layers = [each for each in made.layers if each["id"] != TOP]
    made.save()


def _layer_below_itself(made: Handmade) -> None:
    next(each for each in made.layers if each["id"] == TOP)["parent"] = TOP
    made.save()


def _layer_of_wrong_types(made: Handmade) -> None:
    number = next(number for number, each in enumerate(made.layers) if each["id"] == TOP)
    made.layers[number] = {"id": TOP, "parent": ["x"]}
    made.save()


def _layer_incomplete(made: Handmade) -> None:
    next(each for each in made.layers if each["id"] == TOP)["flags"] = {"incomplete": True}
    made.save()


def _other_diff_id(made: Handmade) -> None:
    next(each for each in made.layers if each["id"] == TOP)["diff-digest"] = "sha256:" + "0" * 64
    made.save()


def _layers_too_few(made: Handmade) -> None:
    found = next(each for each in made.images if each["id"] == BAD_ID)
    found["layer"] = images.encoded(BASE)
    made.save()


def _no_config(made: Handmade) -> None:
    _config(made).unlink()


def _other_config(made: Handmade) -> None:
    _config(made).write_bytes(GOOD.data)


def _config_is_no_json(made: Handmade) -> None:
    _config(made).write_bytes(BAD.data[:-5])


def _config_is_a_link(made: Handmade) -> None:
    _config(made).unlink()
    (made.root.parent / "secret").write_bytes(BAD.data)
    _config(made).symlink_to(made.root.parent / "secret")


def _config_is_a_fifo(made: Handmade) -> None:
    _config(made).unlink()
    os.mkfifo(_config(made))


@pytest.mark.parametrize(
    ("break_it", "told"),
    [
        (_no_tree, TOP),
        (_tree_is_a_file, TOP),
        (_tree_leads_outside, TOP),
        (_layer_not_listed, "layers.json"),
        (_layer_below_itself, "layers.json"),
        (_layer_of_wrong_types, "layers.json"),
        (_layer_incomplete, "layers.json"),
        (_other_diff_id, "layers.json"),
        (_layers_too_few, "layers.json"),
        (_no_config, BAD_ID),
        (_other_config, BAD_ID),
        (_config_is_no_json, BAD_ID),
        (_config_is_a_link, BAD_ID),
        (_config_is_a_fifo, BAD_ID),
    ],
)
async def test_one_image_is_broken(made: Handmade, break_it: Callable[[Handmade], None], told: str) -> None:
    break_it(made)
    store = opened(made)
    listing = await store.images()
    assert [image.id for image in listing] == [GOOD.id]
    (damaged,) = listing.damaged
    assert damaged.id == BAD.id
    assert damaged.names == ("localhost/bad:1",)
    assert told in str(damaged.error)
    assert str(made.root.parent) not in str(damaged.error)
    assert (await store.image("good:1")).id == GOOD.id
    for text in ("bad:1", BAD.id):
        with pytest.raises(StoreDamaged) as raised:
            await store.image(text)
        assert str(raised.value) == str(damaged.error)
    assert (await store.container("good")).image == GOOD.id
    good = (await store.image("good:1")).layers[-1]
    assert good.assemble is not None
    assert good.guard is not None
    assert hashlib.sha256(b"".join(good.assemble())).hexdigest() == good.diff_id[7:]
    good.guard()


@pytest.mark.parametrize("content", [b"", b"[", b"{}", b'"x"', b"[" * 100_000, b"\xff", b'[{"id": 1}'])
@pytest.mark.parametrize("kind", ["images", "layers", "containers"])
async def test_a_list_is_broken(made: Handmade, kind: str, content: bytes) -> None:
    name = f"{made.driver}-{kind}/{kind}.json"
    (made.root / name).write_bytes(content)
    store = opened(made)
    for each in ("images", "layers", "containers"):
        try:
            listing = await getattr(store, each)()
        except StreamerError as error:
            assert each == kind
            assert name in str(error)
            continue
        # Everything lies on layers; images and containers can do without each other.
        if kind == "layers":
            assert not listing.items
            assert all(name in str(damaged.error) for damaged in listing.damaged)
            assert len(listing.damaged) == 2
        else:
            assert each != kind
            assert len(listing) == {"images": 2, "containers": 2, "layers": 3}[each]
            assert not listing.damaged


@pytest.mark.parametrize("kind", ["images", "layers", "containers"])
@pytest.mark.parametrize("item", ['{"id": "../../etc"}', '{"id": 5}', "7", '{"id": "x", "names": 3}', "{}"])
async def test_an_item_is_broken(made: Handmade, kind: str, item: str) -> None:
    name = f"{made.driver}-{kind}/{kind}.json"
    listed = json.loads((made.root / name).read_bytes())
    if kind == "layers" and "names" in item:
        item = '{"id": "x", "created": 3}'
    (made.root / name).write_text(json.dumps([*listed, json.loads(item)]))
    store = opened(made)
    for each, count in (("images", 2), ("layers", 3), ("containers", 2)):
        listing = await getattr(store, each)()
        assert len(listing) == count
        assert [name in str(damaged.error) for damaged in listing.damaged] == [True] * (each == kind)
    assert (await store.image("bad:1")).id == BAD.id


async def test_no_tar_split(made: Handmade) -> None:
    (made.root / f"{made.driver}-layers/{TOP}.tar-split.gz").unlink()
    top = (await opened(made).image("bad:1")).layers[-1]
    assert top.assemble is None
    assert top.size is None
    assert top.snapshot is not None


async def test_half_a_tar_split(made: Handmade) -> None:
    path = made.root / f"{made.driver}-layers/{TOP}.tar-split.gz"
    path.write_bytes(path.read_bytes()[:50])
    top = (await opened(made).image("bad:1")).layers[-1]
    assert top.assemble is not None
    with pytest.raises(StoreDamaged):
        list(top.assemble())


async def test_a_tar_split_that_became_a_pipe(made: Handmade) -> None:
    path = made.root / f"{made.driver}-layers/{TOP}.tar-split.gz"
    top = (await opened(made).image("bad:1")).layers[-1]
    path.unlink()
    os.mkfifo(path)
    assert top.assemble is not None
    with pytest.raises(StoreDamaged, match=f"{path.name} is not a regular file"):
        list(top.assemble())


def test_records_are_in_a_regular_file(made: Handmade) -> None:
    path = made.root / f"{made.driver}-layers/{TOP}.tar-split.gz"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(StoreDamaged, match=f"{path.name} is not a regular file"):
        open_records(os.fsencode(path))


@pytest.mark.parametrize("volatile", [False, True])
async def test_the_end_check_misses_no_other_list(made: Handmade, tmp_path: Path, volatile: bool) -> None:
    """What the layers are not listed in, nobody needs to read."""
    shared = Handmade(tmp_path / "shared", made.driver)
    shared.image(images.image(layer(file("shared", b""))), "localhost/shared:1")
    shared.save()
    store = containers_storage("s", made.root, options=StorageOptions(additional=(shared.root,)))
    listed = made.root / f"{made.driver}-layers" / "layers.json"
    other = listed.with_name("volatile-layers.json")
    if not volatile:
        other = shared.root / listed.relative_to(made.root)
    other.write_bytes(b"{")
    assert len((await store.image("good:1")).layers) == 2
    for found in (await store.image("good:1"), await store.container("good")):
        guards = [each.guard for each in found.layers] if isinstance(found, Image) else [found.guard]
        assert len(guards) > 0
        for guard in guards:
            assert guard is not None
            guard()
            guard()
    guard = (await store.image("good:1")).layers[-1].guard
    listed.write_bytes(b"[]")  # and now it may be listed in the one that cannot be read
    assert guard is not None
    with pytest.raises(StoreDamaged, match=other.name):
        guard()
    other.write_bytes(b"[]")
    with pytest.raises(SourceChanged):
        guard()


async def test_nothing_there(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        store = containers_storage("s", folder)
        with pytest.raises(StoreDamaged) as raised:
            await store.images()
        assert str(tmp_path) not in str(raised.value)


async def test_other_drivers_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "btrfs-images").mkdir()
    with pytest.raises(Unsupported, match="btrfs"):
        await containers_storage("s", tmp_path).images()
    with pytest.raises(Unsupported, match="btrfs"):
        await containers_storage("s", tmp_path, options=StorageOptions(driver="btrfs")).images()


async def test_an_empty_store(tmp_path: Path) -> None:
    (tmp_path / "overlay-images").mkdir()
    store = containers_storage("s", tmp_path)
    assert (len(await store.images()), len(await store.layers()), len(await store.containers())) == (0, 0, 0)
    for text in ("null", "[]"):
        (tmp_path / "overlay-images/images.json").write_text(text)
        assert len(await store.images()) == 0


@pytest.mark.root
async def test_wrong_permissions() -> None:
    """Root reads everything: what others meet is tried as another user, where another user may come."""
    with tempfile.TemporaryDirectory(prefix="storage-") as folder:
        os.chmod(folder, 0o755)
        made = Handmade(Path(folder, "root"))
        made.image(GOOD)
        made.image(BAD)
        made.save()
        _config(made).chmod(0o600)
        told = _as_nobody(made.root)
        assert told["images"] == [GOOD.id]
        assert told["damaged"] == [BAD.id]
        assert told["code"] == NotPermitted.code
        assert BAD_ID in str(told["error"])
        assert folder not in str(told["error"])


@pytest.mark.root
@pytest.mark.parametrize(
    ("closed", "listed"),
    [
        (".", "images"),
        ("overlay-images", "images"),
        ("overlay-layers", "layers"),
        ("overlay-containers", "containers"),
    ],
)
async def test_a_root_of_somebody_else(closed: str, listed: str) -> None:
    with tempfile.TemporaryDirectory(prefix="storage-") as folder:
        os.chmod(folder, 0o755)
        made = Handmade(Path(folder, "root"))
        made.container("box", made.image(GOOD, "localhost/good:1"))
        made.save()
        os.chmod(made.root / closed, 0o700)
        asked = getattr(opened(made), listed)
        os.seteuid(65534)
        try:
            with pytest.raises(NotPermitted, match="may not be read by this user") as raised:
                await asked()
        finally:
            os.seteuid(0)
        assert "store s" in str(raised.value)
        assert folder not in str(raised.value)


def _as_nobody(root: Path) -> dict[str, object]:
    script = f"""
import asyncio, json, os
from pathlib import Path
from streamer.stores.containers_storage.store import containers_storage
def images():
    return asyncio.run(containers_storage("s", Path({str(root)!r})).images())
images()  # with all that is imported for it
os.setgroups([]); os.setgid(65534); os.setuid(65534)
found = images()
(broken,) = found.damaged
print(json.dumps({{"images": [image.id for image in found], "damaged": [broken.id], "code": broken.error.code,
  "error": str(broken.error)}}))
"""
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, timeout=120)
    found: dict[str, object] = json.loads(done.stdout)
    return found
