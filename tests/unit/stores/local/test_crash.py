"""SIGKILL at any moment: afterwards nothing is half there, leftovers are swept, and the same work succeeds."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import images
from support.images import directory, file, layer, whiteout

from streamer.stores.local.store import LocalStore

CHILD = """
import asyncio, sys
from pathlib import Path
from streamer.stores.local.store import LocalStore

async def main():
    async with LocalStore.open(Path(sys.argv[1])) as store:
        print("open", flush=True)
        while True:
            await store.import_archive(Path(sys.argv[2]))
            await store.create("crash:1", "box")
            print("done", flush=True)
            await store.remove_container("box")
            await store.remove_image("crash:1")

asyncio.run(main())
"""


def made() -> images.MadeImage:
    chance = random.Random(5)
    base = layer(*(file(f"d{number % 7}/f{number}", chance.randbytes(2000)) for number in range(600)))
    top = layer(directory("d1/"), whiteout("d1/f1"), file("d2/new", chance.randbytes(500_000)))
    return images.image(base, top, names=["crash:1"], compression="gzip")


@pytest.mark.slow
async def test_killed_at_random_times(tmp_path: Path) -> None:
    image = made()
    archive = tmp_path / "archive.tar"
    archive.write_bytes(images.pack(images.docker(image)))
    state = tmp_path / "state"
    chance = random.Random(17)
    complete = 0
    for _ in range(15):
        kill_one(state, archive, chance.random() * 0.5)
        async with LocalStore.open(state) as store:
            assert os.listdir(state / "staging") == []
            assert os.listdir(state / "trash") == []
            found = await store.images()
            complete += len(found)
            for each in found:
                assert each.id == image.id
                for layer, data in zip(each.layers, image.layers, strict=True):
                    assert layer.assemble is not None
                    assert b"".join(layer.assemble()) == data
            boxes = await store.containers()
            for box in boxes:
                assert sorted(os.listdir(state / "containers" / box.id)) == ["empty", "merged", "upper", "work"]
            assert len(os.listdir(state / "containers")) == len(boxes)
            assert len(os.listdir(state / "layers")) == len(await store.layers()) == 2 * len(found)
            # The same again succeeds, whatever was left.
            await store.import_archive(archive)
            for box in boxes:
                await store.remove_container(box.id)
            await store.remove_image("crash:1")
            assert os.listdir(state / "layers") == os.listdir(state / "containers") == []


def kill_one(state: Path, archive: Path, seconds: float) -> None:
    """Starts a process that imports, creates and removes all the time; kills it that long after it opened the store."""
    command = [sys.executable, "-c", CHILD, os.fspath(state), os.fspath(archive)]
    root = os.fspath(Path(__file__).parents[4])
    environment = {**os.environ, "PYTHONPATH": root}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"open\n"
        time.sleep(seconds)  # the moment is meant to be any
        assert child.poll() is None, "the child failed by itself"
        child.send_signal(signal.SIGKILL)


@pytest.mark.parametrize("moment", ["moved", "removed"])
async def test_killed_between_directories_and_rows(moment: str, tmp_path: Path) -> None:
    """The two states a kill can leave on purpose: a directory without a row, and a row's directory in the trash."""
    image = made()
    async with LocalStore.open(tmp_path) as store:
        await store.import_archive(images.Bytes(images.pack(images.docker(image))))
    orphan = tmp_path / "layers" / ("0" * 64)
    if moment == "moved":
        (orphan / "diff").mkdir(parents=True)
        (tmp_path / "containers" / ("1" * 64) / "upper").mkdir(parents=True)
    else:
        (tmp_path / "trash" / "x" / "diff").mkdir(parents=True)
        (tmp_path / "trash" / "x" / "diff" / "file").write_text("x")
    async with LocalStore.open(tmp_path) as store:
        assert os.listdir(tmp_path / "trash") == []
        assert not orphan.exists()
        assert os.listdir(tmp_path / "containers") == []
        assert [each.id for each in await store.images()] == [image.id]


async def test_an_orphan_makes_way_for_the_layer(tmp_path: Path) -> None:
    """A long-running process never sweeps: it meets the leftover of a killed one when it imports the same layer."""
    image = made()
    async with LocalStore.open(tmp_path) as store:
        orphan = tmp_path / "layers" / image.diff_ids[0].removeprefix("sha256:")
        (orphan / "diff").mkdir(parents=True)
        (orphan / "diff" / "half").write_text("half")
        await store.import_archive(images.Bytes(images.pack(images.docker(image))))
        assert not (orphan / "diff" / "half").exists()
        stored = (await store.image("crash:1")).layers[0]
        assert stored.assemble is not None
        assert b"".join(stored.assemble()) == image.layers[0]


async def test_staging_of_a_living_process_is_not_swept(tmp_path: Path) -> None:
    from streamer.stores.local.staging import staging
    from streamer.stores.local.state import opened

    async with LocalStore.open(tmp_path):
        with opened(tmp_path) as state, staging(state) as living:
            (tmp_path / "staging" / "0123456789abcdef").mkdir()
            async with LocalStore.open(tmp_path):
                assert os.listdir(tmp_path / "staging") == [living.name]
        assert os.listdir(tmp_path / "staging") == []
