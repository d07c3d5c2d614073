"""The embedded store: finds things as every store does (`stores.base.Store`), and is the one that can be changed.

Crash safety in one paragraph: an import or a container is written below `staging/`, flushed, moved to its place and
only then given its rows, in one transaction; a removal deletes the rows, moves the directories into `trash/`, and then
deletes. So whatever a row names is complete, and whatever has no row is swept at the next start. Several processes may
work on one store: moments in which directories and rows change together are covered by one lock file, a staging
directory by the flock of the process that fills it, and a layer that something is being built on by a shared flock.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar

from anyio import to_thread

from streamer.database import Database
from streamer.errors import InvalidRequest, StoreDamaged
from streamer.oci import digest as digests
from streamer.oci import reference as references
from streamer.oci.reference import Reference
from streamer.stores.base import ArchiveKind, Container, Image, ImportReport, Layer, Listing
from streamer.stores.local import catalog, containers, extending, importing, lookup, removal, staging
from streamer.stores.local import state as states
from streamer.stores.local.catalog import FetchedRow
from streamer.stores.local.core import Core
from streamer.stores.local.records import Records
from streamer.stores.local.removal import Removal
from streamer.stores.local.schema import MIGRATIONS
from streamer.stores.local.source import Source
from streamer.stores.local.unpack import Ownership
from streamer.tar.source import Limits

_LIMITS = Limits()

T = TypeVar("T")
R = TypeVar("R")


class LocalStore:
    """An open embedded store. Made by `LocalStore.open`; every method may be called from several tasks at once."""

    def __init__(self, core: Core) -> None:
        self._core = core

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, state: Path, name: str = "local") -> AsyncIterator[LocalStore]:
        """The store in the directory `state`: made (0700) where it is missing, migrated, swept of what killed processes
        left. Leaving the block closes it. NotPermitted, StorageFull, StoreDamaged, Unsupported (a newer schema)."""
        stack = contextlib.ExitStack()
        try:
            opened = await to_thread.run_sync(stack.enter_context, states.opened(state))
            async with Database.open(opened.database, MIGRATIONS) as database:
                core = Core(name, opened, database, Ownership(None))
                await _prepare(core)
                yield cls(core)
        finally:
            stack.close()

    @property
    def name(self) -> str:
        return self._core.name

    @property
    def location(self) -> str:
        return f"local:{self._core.state.path}"

    # Finding

    async def images(self) -> Listing[Image]:
        """Without those that are only steps to others: see `steps`."""
        async with self._core.database.read() as transaction:
            rows = await catalog.images(transaction)
        return Listing(await self._answered(Records(self._core).images, rows))

    async def steps(self) -> Listing[Image]:
        """The images that are only steps to others, and so not among `images`: without a name, and built on."""
        async with self._core.database.read() as transaction:
            rows = await catalog.steps(transaction)
        return Listing(await self._answered(Records(self._core).images, rows))

    async def containers(self) -> Listing[Container]:
        async with self._core.database.read() as transaction:
            rows = await catalog.containers(transaction)
        return Listing(await self._answered(Records(self._core).containers, rows))

    async def layers(self) -> Listing[Layer]:
        async with self._core.database.read() as transaction:
            stacks = await catalog.stacks(transaction)
        return Listing(await self._answered(Records(self._core).layers, stacks))

    async def image(self, reference: str) -> Image:
        async with self._core.database.read() as transaction:
            row = await lookup.image(transaction, reference, self.name)
        return await self._answered(Records(self._core).image, row)

    async def named(self, repository: str) -> list[tuple[Reference, Image]]:
        wanted = references.parse(repository).repository
        found = []
        async with self._core.database.read() as transaction:
            for tag, identity in await catalog.tags(transaction, wanted):
                row = await catalog.image(transaction, identity)
                if row is not None:
                    found.append((Reference(wanted, tag), row))
        images = await self._answered(Records(self._core).images, [row for _, row in found])
        return [(name, image) for (name, _), image in zip(found, images, strict=True)]

    async def container(self, reference: str) -> Container:
        async with self._core.database.read() as transaction:
            row = await lookup.container(transaction, reference, self.name)
        return await self._answered(Records(self._core).container, row)

    async def layer(self, digest: str) -> Layer:
        async with self._core.database.read() as transaction:
            row = await lookup.layer(transaction, digest, self.name)
            rows = await catalog.layers_below(transaction, row.chain)
        return await self._answered(Records(self._core).layer, rows)

    async def _answered(self, made: Callable[[T], R], rows: T) -> R:
        """Rows to records, in a thread of the look-ups' own: their directories are looked at."""
        return await to_thread.run_sync(made, rows, limiter=self._core.lookups)

    # Changing

    async def import_archive(
        self,
        source: Source | Path,
        *,
        name: str | None = None,
        kind: ArchiveKind | str = ArchiveKind.AUTO,
        progress: Callable[[int], None] | None = None,
        limits: Limits = _LIMITS,
    ) -> ImportReport:
        """Takes in a docker-archive, an OCI archive or a root file system in any compression, read in a thread of the
        store's own; or a path: of such a file, or of an OCI layout directory.

        All or nothing: after any failure, or a cancellation, no row and no file is left. `name` replaces the names that
        the archive gives. `progress` is called in that thread with the bytes read so far. A name that another image
        has moves to the new one, and the report says so. InvalidArchive, DigestMismatch, LimitExceeded, StorageFull,
        Unsupported, each naming the member; what the source raises passes through. Busy, before anything is read, when
        enough others are waiting.
        """
        try:
            kind = ArchiveKind(kind)
        except ValueError:
            raise InvalidRequest(
                f"{kind!r} is not a kind of archive: {', '.join(ArchiveKind)}", parameter="kind"
            ) from None
        return await importing.import_archive(
            self._core, source, name=name, kind=kind, progress=progress, limits=limits
        )

    async def commit(
        self,
        container: str,
        source: Source,
        name: str | None = None,
        *,
        comment: str = "",
        author: str = "",
        limits: Limits = _LIMITS,
    ) -> Image:
        """A new image: the container's image and, on top, the layer tar that `source` gives (its changes, as an export
        of its diff has them). All or nothing; the errors of `import_archive`."""
        return await importing.commit(
            self._core,
            container,
            source,
            name,
            comment=comment,
            author=author,
            limits=limits,
        )

    async def extend(
        self,
        parent: str | None,
        source: Source | None,
        runtime: dict[str, Any],
        *,
        created_by: str,
        author: str = "",
        key: str | None = None,
        limits: Limits = _LIMITS,
    ) -> Image:
        """A new image without a name: on the image with the ID `parent` (None: on nothing) the layer tar that `source`
        gives (None, or nothing but the end of a tar: no layer), and `runtime` as its configuration. With a `key`,
        `cached` finds it. All or nothing; the errors of `import_archive`.

        Until something else is made on it, it is listed; from then on it goes with the last image that is.
        """
        return await extending.extend(
            self._core, parent, source, runtime, created_by=created_by, author=author, key=key, limits=limits
        )

    async def cached(self, key: str) -> Image | None:
        """The image that was made under this key, if it and all its layers are there."""
        async with self._core.database.read() as transaction:
            row = await catalog.cached(transaction, key)
        if row is None or not all(self._core.state.has_layer(layer.chain) for layer in row.layers):
            return None
        return await self._answered(Records(self._core).image, row)

    @contextlib.asynccontextmanager
    async def scratch(self) -> AsyncIterator[Path]:
        """A directory for files that only this block needs, on the store's file system: gone when the block is left, or
        at the next start of anybody after this process was killed. NotPermitted, StorageFull.

        However often the block is cancelled, it ends when the directory is gone."""
        async with self._core.scratch() as staging:
            yield self._core.state.path / "staging" / staging.name

    async def fetched(self, key: str) -> FetchedRow | None:
        """The version of a file from a URL that was fetched last."""
        async with self._core.database.read() as transaction:
            return await catalog.fetched(transaction, key)

    async def note_fetched(self, key: str, row: FetchedRow) -> None:
        """Remembers the version that was fetched now."""
        async with self._core.database.write() as transaction:
            await catalog.note_fetched(transaction, key, row)

    async def create(self, image: str, name: str | None = None) -> Container:
        """A new container; without a name it gets the first twelve digits of its ID. Conflict if the name is taken."""
        return await containers.create(self._core, image, name)

    async def mount(self, container: str, target: Path | None = None) -> Path:
        """Mounts a container, writable, until `unmount`; where it is mounted. Conflict, NotPermitted, MountFailed."""
        return await containers.mount(self._core, container, target)

    async def unmount(self, container: str) -> None:
        """Conflict if it is not mounted, or in use."""
        await containers.unmount(self._core, container)

    async def remove_container(self, container: str, force: bool = False) -> None:
        """Conflict if it is mounted, unless `force`, which unmounts it."""
        await containers.remove(self._core, container, force)

    async def remove_image(self, image: str, force: bool = False) -> Removal:
        """Takes away a name, or with the last one (or by ID) the image and the layers nobody else needs.

        Conflict if a container uses the image or an ID has several names, unless `force`; a container keeps its layers.
        """
        return await removal.remove_image(self._core, image, force)

    async def prune(self) -> tuple[tuple[str, ...], int]:
        """Removes every image without a name that no container uses, unless an image that has a name or is used was
        made on it; their IDs, and how many layers went with them. With them goes what the build cache had of them; a
        build that is under way loses its steps, and fails."""
        return await removal.prune(self._core)

    async def tag(self, image: str, name: str) -> None:
        """Gives an image one more name; another image that has it loses it."""
        given = importing.image_name(name)
        self._core.check_writable()
        async with self._core.database.write() as transaction:
            row = await lookup.image(transaction, image, self.name)
            await catalog.point_name(transaction, given, row.id)


async def _prepare(core: Core) -> None:
    """What `open` does under the lock: the ownership is read or decided, leftovers go."""
    async with core.exclusive():
        async with core.database.write() as transaction:
            owner = await catalog.read_property(transaction, "owner")
            if owner is None:
                await to_thread.run_sync(core.state.require_empty, limiter=core.changes)
                owner = await to_thread.run_sync(_own, core.state, limiter=core.changes)
                await catalog.write_property(transaction, "owner", owner)
            if await catalog.read_property(transaction, "attributes") is None:
                if await to_thread.run_sync(core.state.mark, owner == "trusted", limiter=core.changes):
                    await catalog.write_property(transaction, "attributes", "marked")
            else:
                await to_thread.run_sync(core.state.require_mark, owner == "trusted", limiter=core.changes)
            layers = frozenset(digests.encoded(row.chain) for row in await catalog.layers(transaction))
            known = frozenset(row.id for row in await catalog.containers(transaction))
        core.ownership = _ownership(owner)
        if core.ownership.owner is None or core.ownership.owner[0] == os.geteuid():
            await to_thread.run_sync(_sweep, core, layers, known, limiter=core.changes)
            await removal.collect(core)
    await to_thread.run_sync(core.state.empty_trash, limiter=core.rest)


def _sweep(core: Core, layers: frozenset[str], known: frozenset[str]) -> None:
    with states.storage("the store"):
        staging.sweep_abandoned(core.state)
        for identity in known:
            core.state.spare(identity)
        if not staging.sweep_orphans(core.state, "containers", known):
            staging.sweep_orphans(core.state, "layers", layers)


def _own(state: states.State) -> str:
    """`trusted` where this process may write real owners and trusted.overlay.* marks, else `UID:GID`."""
    if os.geteuid() == 0:
        try:
            os.setxattr(state.folders["trash"], "trusted.overlay.probe", b"y")
            os.removexattr(state.folders["trash"], "trusted.overlay.probe")
            return "trusted"
        except OSError:
            pass  # root of a container without CAP_SYS_ADMIN, or a file system without such attributes
    return f"{os.geteuid()}:{os.getegid()}"


def _ownership(owner: str) -> Ownership:
    if owner == "trusted":
        return Ownership(None)
    try:
        uid, gid = owner.split(":")
        return Ownership((int(uid), int(gid)))
    except ValueError:
        raise StoreDamaged(f"streamer.db of the store has an unreadable owner {owner[:80]!r}") from None
