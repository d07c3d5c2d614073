"""A store of a real containerd, in a namespace of its own: images imported by `ctr`, a container made of one."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from support import images
from support.engines import Command, Engines

from streamer.oci import reference as references
from streamer.stores.base import Store
from streamer.stores.containerd.store import ContainerdStore

Remove = Callable[[str], Awaitable[object]]


def namespace(request: pytest.FixtureRequest) -> tuple[Command, Path, str]:
    """`ctr` in a namespace that is empty, the socket, and the namespace's name. What is made there stays until the
    daemon's directory is removed, but nothing may be left running."""
    engines: Engines = request.getfixturevalue("engines")
    address: Path = request.getfixturevalue("containerd")
    name = f"t{secrets.token_hex(4)}"
    return (
        engines.command("ctr", "--address", address, "--namespace", name, root=address.parent / "root"),
        address,
        name,
    )


def load(ctr: Command, folder: Path, *made: images.MadeImage, snapshotter: str = "overlayfs") -> None:
    """Imports and unpacks; names are given in full, and images without any are kept by their digests alone."""
    named = [_named(each) for each in made if each.names]
    bare = [each for each in made if not each.names]
    for group, digests in ((named, ()), (bare, ("--base-name", "import", "--digests"))):
        if group:
            archive = folder / "loading.tar"
            archive.write_bytes(images.pack(images.docker(*group)))
            ctr("images", "import", "--snapshotter", snapshotter, *digests, archive)
            archive.unlink()


def _named(made: images.MadeImage) -> images.MadeImage:
    names = [references.parse(name).name for name in made.names]
    return images.MadeImage(made.layers, names, made.compression, made.config)


@contextlib.asynccontextmanager
async def factory(folder: Path, request: pytest.FixtureRequest) -> AsyncIterator[tuple[Store, Remove]]:
    made_images: list[images.MadeImage] = request.module.IMAGES

    ctr, address, name = namespace(request)
    load(ctr, folder, *made_images)
    ctr("containers", "create", "docker.io/shop/tool:1", "box", "/tool")
    async with ContainerdStore.open("engine", str(address), name) as store:

        async def remove(identity: str) -> None:
            (made,) = [each for each in made_images if each.id == identity]
            ctr("images", "delete", "--sync", *(references.parse(each).name for each in made.names))

        yield store, remove
