"""Taking away: names, images, layers that nobody stands on any more. Rows first, then directories, then their bytes."""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass

from anyio import to_thread

from streamer.errors import Conflict
from streamer.oci import digest as digests
from streamer.stores.local import catalog, lookup
from streamer.stores.local import state as states
from streamer.stores.local.core import Core

_BATCH = 128
"""Layers collected in one transaction: each is locked meanwhile, which takes a descriptor."""


@dataclass(frozen=True, slots=True)
class Removal:
    """What `remove_image` took away: familiar names; the image's ID, None if only names went; how many layers."""

    untagged: tuple[str, ...]
    image: str | None
    layers: int


async def remove_image(core: Core, reference: str, force: bool) -> Removal:
    core.check_writable()
    async with core.exclusive():
        async with core.database.write() as transaction:
            row = await lookup.image(transaction, reference, core.name)
            name = await lookup.image_name(transaction, reference)
            if name is not None and len(row.names) > 1:
                await catalog.forget_name(transaction, name)
                return Removal((name.familiar,), None, 0)
            names = tuple(each.familiar for each in row.names)
            if len(names) > 1 and not force:
                raise Conflict(
                    f"image {digests.short(row.id)} has several names ({', '.join(names[:10])}): remove them one by"
                    " one, or force it"
                )
            users = await catalog.containers_of(transaction, row.id)
            if users and not force:
                raise Conflict(
                    f"image {digests.short(row.id)} is used by container {', '.join(users[:10])}: remove that first,"
                    " or force it",
                    containers=users,
                )
            image: str | None = row.id
            while image is not None:
                below = await catalog.step_below(transaction, image)
                await catalog.forget_image(transaction, image)
                image = below
        layers = await collect(core)
    await to_thread.run_sync(core.state.empty_trash, limiter=core.rest)
    return Removal(names, row.id, layers)


async def prune(core: Core) -> tuple[tuple[str, ...], int]:
    """Removes every image that nobody can want: see `LocalStore.prune`."""
    core.check_writable()
    async with core.exclusive():
        async with core.database.write() as transaction:
            images = await catalog.unneeded_images(transaction)
            for image in images:
                await catalog.forget_image(transaction, image)
            await catalog.forget_fetched(transaction)
        layers = await collect(core)
    await to_thread.run_sync(core.state.empty_trash, limiter=core.rest)
    return tuple(images), layers


async def collect(core: Core) -> int:
    """Removes layers that no image and no container needs, except those an import is just building on; they go at the
    next opportunity. The caller holds the store's lock and empties the trash afterwards. Returns how many went."""
    count = 0
    while True:
        gone: list[str] = []
        locks: list[int] = []
        try:
            async with core.database.write() as transaction:
                for row in (await catalog.unreferenced_layers(transaction))[:_BATCH]:
                    if await catalog.has_children(transaction, row.chain):
                        continue  # of a layer that is in use
                    if not _locked(core, row.chain, locks):
                        continue
                    await catalog.forget_layer(transaction, row.chain)
                    gone.append(row.chain)
        finally:
            for fd in locks:
                os.close(fd)
        for chain in gone:
            core.state.discard("layers", digests.encoded(chain))
        count += len(gone)
        if not gone:
            return count


def _locked(core: Core, chain: str, locks: list[int]) -> bool:
    """Whether nobody holds the layer; a layer whose directory is missing is held by nobody."""
    fd = states.held(core.state.folders["layers"], digests.encoded(chain), fcntl.LOCK_EX | fcntl.LOCK_NB)
    if fd is not None:
        locks.append(fd)
        return True
    return not core.state.has_layer(chain)
