"""Images made on others, the build cache, and what becomes of steps that nobody wants any more."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from support import images
from support.images import directory, file, layer

from streamer.database import Database
from streamer.errors import InvalidArchive, NotFound, SourceFailed
from streamer.export.container import plan_rootfs
from streamer.export.exporter import exporter
from streamer.export.plan import Options
from streamer.stores.base import Image
from streamer.stores.local.schema import MIGRATIONS
from streamer.stores.local.store import LocalStore

BASE = images.image(layer(directory("etc/"), file("etc/passwd", b"root")), names=["base:1"])
TOP = layer(file("new", b"new"))


async def base(store: LocalStore) -> Image:
    await store.import_archive(images.Bytes(images.pack(images.docker(BASE))))
    return await store.image("base:1")


async def extend(
    store: LocalStore, parent: Image | None, data: bytes | None = None, key: str | None = None, **runtime: Any
) -> Image:
    source = images.Bytes(data) if data is not None else None
    identity = parent.id if parent is not None else None
    return await store.extend(identity, source, runtime, created_by=f"made {key}", key=key)


async def files(store: LocalStore, image: Image) -> bytes:
    async with exporter() as exports, exports.open(plan_rootfs(image, "x", Options())) as stream:
        return b"".join([chunk async for chunk in stream])


async def test_a_layer_on_an_image(tmp_path: Path) -> None:
    async with LocalStore.open(tmp_path) as store:
        below = await base(store)
        made = await store.extend(
            below.id, images.Bytes(TOP), {"Env": ["A=1"]}, created_by="made", author="somebody", key="k"
        )
        value, before = made.config.value, below.config.value
        assert [layer.diff_id for layer in made.layers] == [*BASE.diff_ids, images.sha256(TOP)]
        assert value["config"] == {"Env": ["A=1"]}
        assert value["author"] == "somebody"
        assert value["history"][:-1] == before["history"]
        assert value["history"][-1] == {"created": value["created"], "author": "somebody", "created_by": "made"}
        assert made.names == ()
        assert b"new" in await files(store, made)
        assert await store.image(made.id) == made
        assert await store.cached("k") == made


async def test_no_layer(tmp_path: Path) -> None:
    async with LocalStore.open(tmp_path) as store:
        below = await base(store)
        for source in (None, bytes(1024)):
            made = await extend(store, below, source)
            assert made.layers == below.layers
            assert made.config.value["history"][-1]["empty_layer"] is True
            assert "author" not in made.config.value
        assert len(await store.layers()) == 1
        assert os.listdir(tmp_path / "staging") == []


async def test_on_nothing(tmp_path: Path) -> None:
    async with LocalStore.open(tmp_path) as store:
        made = await extend(store, None, TOP, User="u")
        assert (made.config.os, made.config.architecture) == ("linux", BASE_ARCHITECTURE)
        assert [layer.diff_id for layer in made.layers] == [images.sha256(TOP)]
        again = await extend(store, await extend(store, None, User="u"), TOP)
        assert again.layers == made.layers


BASE_ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)


async def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    async with LocalStore.open(tmp_path) as store:
        below = await base(store)
        with pytest.raises(SourceFailed):
            await store.extend(below.id, images.Broken(TOP, 512, OSError(5, "no")), {}, created_by="x", key="k")
        with pytest.raises(InvalidArchive):
            await store.extend(below.id, images.Bytes(TOP[:-1024]), {}, created_by="x", key="k")
        with pytest.raises(NotFound):
            await store.extend("sha256:" + "0" * 64, images.Bytes(TOP), {}, created_by="x", key="k")
        assert await store.cached("k") is None
        assert [image.id for image in await store.images()] == [below.id]
        assert len(await store.layers()) == 1
        assert os.listdir(tmp_path / "staging") == []


async def test_the_newest_image_of_a_key_is_found(tmp_path: Path) -> None:
    async with LocalStore.open(tmp_path) as store:
        below = await base(store)
        first = await extend(store, below, key="k", A=1)
        second = await extend(store, below, key="k", A=2)
        assert await store.cached("k") == second
        await store.remove_image(second.id)
        assert await store.cached("k") is None
        assert await store.cached("other") is None
        assert await store.image(first.id) == first
    async with LocalStore.open(tmp_path) as store:
        assert await store.cached("k") is None
        third = await extend(store, below, key="k", A=3)
    async with LocalStore.open(tmp_path) as store:
        assert await store.cached("k") == third


async def test_an_image_whose_layer_is_lost_is_not_found(tmp_path: Path) -> None:
    async with LocalStore.open(tmp_path) as store:
        made = await extend(store, None, TOP, key="k")
        os.rename(tmp_path / "layers" / made.layers[0].chain_id.removeprefix("sha256:"), tmp_path / "lost")
        assert await store.cached("k") is None


async def chain(store: LocalStore) -> list[Image]:
    """The base, two steps and an image with a name, and another image on the first step."""
    below = await base(store)
    one = await extend(store, below, layer(file("one")), key="1")
    two = await extend(store, one, layer(file("two")), key="2")
    three = await extend(store, two, layer(file("three")), key="3")
    await store.tag(three.id, "built:1")
    other = await extend(store, one, layer(file("other")), key="4")
    return [below, one, two, three, other]


async def ids(store: LocalStore) -> set[str]:
    return {image.id for image in await store.images()}


async def test_steps_are_not_listed(tmp_path: Path) -> None:
    async with LocalStore.open(tmp_path) as store:
        below, one, two, three, other = await chain(store)
        assert await ids(store) == {below.id, three.id, other.id}
        assert {image.id for image in await store.steps()} == {one.id, two.id}
        await store.tag(one.id, "step:1")
        assert await ids(store) == {below.id, one.id, three.id, other.id}


async def test_steps_go_with_the_last_image_made_on_them(tmp_path: Path) -> None:
    async with LocalStore.open(tmp_path) as store:
        below, one, _, _, other = await chain(store)
        removal = await store.remove_image("built:1")
        assert removal.layers == 2
        assert {image.id for image in (*await store.images(), *await store.steps())} == {below.id, one.id, other.id}
        assert await store.cached("2") is None and await store.cached("1") == one
        await store.remove_image(other.id)
        assert await ids(store) == {below.id}
        assert len(await store.layers()) == 1


async def test_a_step_that_has_a_name_or_a_container_stays(tmp_path: Path) -> None:
    async with LocalStore.open(tmp_path) as store:
        below, one, two, _, other = await chain(store)
        await store.remove_image(other.id)
        await store.tag(one.id, "step:1")
        await store.create(two.id, "box")
        await store.remove_image("built:1")
        assert await ids(store) == {below.id, one.id, two.id}


async def test_the_base_may_go_first(tmp_path: Path) -> None:
    async with LocalStore.open(tmp_path) as store:
        _, _, _, three, other = await chain(store)
        await store.remove_image("base:1")
        assert await ids(store) == {three.id, other.id}
        assert b"three" in await files(store, three)
        await store.remove_image("built:1")
        await store.remove_image(other.id)
        assert len(await store.images()) == len(await store.layers()) == 0


async def test_pruning(tmp_path: Path) -> None:
    async with LocalStore.open(tmp_path) as store:
        below, one, two, three, other = await chain(store)
        loose = await extend(store, None, layer(file("loose")))
        assert await store.prune() == (tuple(sorted((other.id, loose.id))), 2)
        assert await store.cached("4") is None
        kept = [await store.cached(key) for key in "123"]
        assert [image and image.id for image in kept] == [one.id, two.id, three.id]
        await store.create(two.id, "box")
        await store.remove_image("built:1")
        assert await store.prune() == ((), 0)
        await store.remove_container("box")
        assert await store.prune() == (tuple(sorted((one.id, two.id))), 2)
        assert await ids(store) == {below.id}


async def test_a_store_of_the_version_before_is_migrated(tmp_path: Path) -> None:
    async with LocalStore.open(tmp_path) as store:
        below = await base(store)
    (database,) = tmp_path.glob("*.db")
    for each in tmp_path.glob("*.db*"):
        each.unlink()
    async with Database.open(database, MIGRATIONS[:1]) as old, old.write() as transaction:
        await transaction.run("INSERT INTO properties VALUES ('owner', 'trusted')")
        await transaction.run(
            "INSERT INTO layers VALUES (?, ?, NULL, 1024)", below.layers[0].chain_id, below.layers[0].diff_id
        )
        top = below.layers[0].chain_id
        await transaction.run("INSERT INTO configs VALUES (?, ?, ?)", below.id, below.config.data, top)
        await transaction.run("INSERT INTO images VALUES (?)", below.id)
        await transaction.run("INSERT INTO names VALUES ('docker.io/library/base', '1', ?)", below.id)
    async with LocalStore.open(tmp_path) as store:
        found = await store.image("base:1")
        made = await extend(store, found, TOP, key="k")
        assert await store.cached("k") == made
        assert b"new" in await files(store, made)


CHILD = """
import asyncio, sys
from pathlib import Path
from support import images
from support.images import file, layer
from streamer.stores.local.store import LocalStore

async def main():
    async with LocalStore.open(Path(sys.argv[1])) as store:
        below = await store.image("base:1")
        print("open", flush=True)
        for number in range(int(sys.argv[3])):
            data = layer(file(f"{sys.argv[2]}-{number}", bytes(20_000)), file("same", b"same"))
            made = await store.extend(
                below.id, images.Bytes(data), {}, created_by=f"{sys.argv[2]} {number}", key=f"{sys.argv[2]} {number}"
            )
            print(made.id, flush=True)
            if number % 3 == 2:
                await store.remove_image(made.id)

asyncio.run(main())
"""


def child(state: Path, name: str, count: int) -> subprocess.Popen[bytes]:
    home = Path(__file__).parents[4]
    environment = {**os.environ, "PYTHONPATH": f"{home}:{home / 'tests'}"}
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(state), name, str(count)], env=environment, stdout=subprocess.PIPE
    )


async def test_several_processes_on_one_parent(tmp_path: Path) -> None:
    async with LocalStore.open(tmp_path) as store:
        await base(store)
        children = [child(tmp_path, name, 9) for name in "abc"]
        outputs = [await asyncio.to_thread(each.communicate) for each in children]
        assert [each.returncode for each in children] == [0, 0, 0]
        for name, (output, _) in zip("abc", outputs, strict=True):
            made = output.decode().split()[1:]
            for number, identity in enumerate(made):
                found = await store.cached(f"{name} {number}")
                assert (found.id if found else None) == (None if number % 3 == 2 else identity)
        for image in await store.images():
            await files(store, image)
        assert len(await store.images()) == 1 + 18


@pytest.mark.slow
async def test_processes_that_are_killed(tmp_path: Path) -> None:
    async with LocalStore.open(tmp_path) as store:
        await base(store)
    chance = random.Random(6)
    for turn in range(8):
        victim, other = child(tmp_path, f"v{turn}", 1000), child(tmp_path, f"o{turn}", 6)
        assert victim.stdout is not None and other.stdout is not None
        victim.stdout.readline()
        time.sleep(chance.random() * 0.3)  # any moment will do
        victim.send_signal(signal.SIGKILL)
        victim.wait()
        victim.stdout.close()
        assert len((await asyncio.to_thread(other.communicate))[0].split()) == 7
        assert other.returncode == 0
        async with LocalStore.open(tmp_path) as store:
            assert os.listdir(tmp_path / "staging") == os.listdir(tmp_path / "trash") == []
            for image in await store.images():
                await files(store, image)
            await store.prune()
            assert len(await store.images()) == len(await store.layers()) == 1
