"""Clones that contexts are made of: gone on every way out, before anybody goes on."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest
from support.gits import HERE, repository, served

from streamer.context import scratch
from streamer.context.opening import EVERY, Network, cloned
from streamer.errors import InvalidRequest, NotFound

NETWORK = Network(HERE, EVERY, 1 << 30)


async def test_a_removal_is_not_left_half_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request's task is cancelled when its client leaves, and again when the service stops."""
    repository(tmp_path / "served/one.git", {"a": "1"})
    above = tmp_path / "above"
    above.mkdir()
    opened, removing, go_on = asyncio.Event(), threading.Event(), threading.Event()
    remove = scratch.remove

    def slowly(parent: int, name: bytes, shown: bytes) -> None:
        removing.set()
        assert go_on.wait(60)
        remove(parent, name, shown)

    monkeypatch.setattr(scratch, "remove", slowly)

    async def use(url: str) -> None:
        async with cloned(f"{url}/one.git", NETWORK, above):
            opened.set()
            await asyncio.Event().wait()

    async with served(tmp_path / "served") as url:
        task = asyncio.create_task(use(url))
        await opened.wait()
        task.cancel()
        assert await asyncio.to_thread(removing.wait, 60)
        task.cancel()
        done, _ = await asyncio.wait([task], timeout=0.1)
        assert not done
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert not list(above.iterdir())


@pytest.mark.parametrize(
    ("fragment", "error"),
    [
        ("#:none", NotFound),
        ("#:a", InvalidRequest),
        ("#:out", NotFound),
        ("#:up/x", NotFound),
        ("#:../above", InvalidRequest),
    ],
)
async def test_directories_that_are_none(tmp_path: Path, fragment: str, error: type[Exception]) -> None:
    """Links in a repository lead to what is in the repository."""
    place = tmp_path / "served/one.git"
    repository(place, {"a": "1"})
    (place / "out").symlink_to("/etc")
    (place / "up").symlink_to("../../..")
    repository(place, {"b": "2"})
    above = tmp_path / "above"
    above.mkdir()
    async with served(tmp_path / "served") as url:
        with pytest.raises(error):
            async with cloned(f"{url}/one.git{fragment}", NETWORK, above):
                pass
    assert not list(above.iterdir())
