"""A real Docker engine for the contract of stores: one daemon for all tests, filled anew after one that changed it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import anyio
import pytest
from support import images
from support.dockerd import dockerd
from support.engines import Command
from support.images import MadeImage

from streamer.stores.base import Store
from streamer.stores.docker.store import docker_store

BOX = "shop/tool:1"


class Filled:
    """A daemon that holds just some images and one container named `box`."""

    def __init__(self, docker: Command) -> None:
        self.docker = docker
        self._held: list[str] | None = None

    def fill(self, wanted: list[MadeImage]) -> None:
        identities = [made.id for made in wanted]
        if self._held == identities:
            return
        self.empty()
        self.docker("load", stdin=images.pack(images.docker(*wanted)))
        self.docker("create", "--name", "box", BOX)
        self._held = identities

    def remove(self, identity: str) -> None:
        self._held = None
        self.docker("rmi", "-f", identity)

    def empty(self) -> None:
        self._held = None
        for kind, remove in (("ps", "rm"), ("images", "rmi")):
            if found := self.docker.text(kind, "-aq", "--no-trunc").split():
                self.docker(remove, "-f", *dict.fromkeys(found))


_filled = pytest.StashKey[Filled]()


@asynccontextmanager
async def factory(
    folder: Path, request: pytest.FixtureRequest
) -> AsyncIterator[tuple[Store, Callable[[str], Awaitable[object]]]]:
    """See tests/contracts/test_stores.py, whose `IMAGES` it holds."""
    filled = _daemon(request)
    await anyio.to_thread.run_sync(filled.fill, request.module.IMAGES)
    store = docker_store("docker", filled.docker.root)
    yield store, lambda identity: anyio.to_thread.run_sync(filled.remove, identity)


def _daemon(request: pytest.FixtureRequest) -> Filled:
    session = request.session
    if _filled not in session.stash:
        engines, containerd = request.getfixturevalue("engines"), request.getfixturevalue("containerd")
        stack = ExitStack()
        # Ends before what it needs: the last to be registered is the first to end.
        session.addfinalizer(stack.close)
        session.stash[_filled] = Filled(stack.enter_context(dockerd(engines, containerd, "contract")))
    return session.stash[_filled]
