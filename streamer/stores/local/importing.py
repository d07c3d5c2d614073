"""Import and commit: take in in a thread, then publish, all or nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import anyio
from anyio import from_thread, to_thread

from streamer.errors import InvalidReference
from streamer.oci import config as configs
from streamer.oci import digest as digests
from streamer.oci import reference as references
from streamer.oci.reference import Reference
from streamer.stores.base import ArchiveKind, Image, ImportReport
from streamer.stores.local import catalog, lookup
from streamer.stores.local.archives import check_layers
from streamer.stores.local.catalog import LayerRow
from streamer.stores.local.core import Core
from streamer.stores.local.ingest import now, take
from streamer.stores.local.intake import Intake, TakenImage
from streamer.stores.local.records import Records
from streamer.stores.local.source import Source, Watch
from streamer.stores.local.staging import Staging
from streamer.stores.local.state import storage
from streamer.tar.compression import decompressed
from streamer.tar.source import Limits

_UNDO = 60
"""Seconds that taking a half-published import back may take when the caller is being cancelled."""


def image_name(text: str) -> Reference:
    """A name an image may be given: with `latest` where there is no tag; InvalidReference for a digest."""
    name = references.parse(text).tagged()
    if name.digest is not None:
        raise InvalidReference(f"{text[:300]!r} holds a digest: an image is named by repository and tag")
    return name


async def import_archive(
    core: Core,
    source: Source | Path,
    *,
    name: str | None,
    kind: ArchiveKind,
    progress: Callable[[int], None] | None,
    limits: Limits,
) -> ImportReport:
    given = image_name(name) if name is not None else None
    async with core.importing() as staging:
        with Intaking(core, staging, limits, progress) as work:
            images = await core.long(
                lambda stop: work.taken(stop, lambda: take(source, kind, given, "imported", work.intake, work.watch))
            )
            moved = await publish(core, work.intake, images)
        async with core.database.read() as transaction:
            rows = [await lookup.image(transaction, image.config.id, core.name) for image in images]
        found = await to_thread.run_sync(Records(core).images, rows, limiter=core.lookups)
        return ImportReport(tuple(found), len(work.intake.folders), len(work.intake.shared), work.watch.count, moved)


async def commit(
    core: Core,
    container: str,
    source: Source,
    name: str | None,
    *,
    comment: str,
    author: str,
    limits: Limits,
) -> Image:
    given = image_name(name) if name is not None else None
    async with core.database.read() as transaction:
        row = await lookup.container(transaction, container, core.name)
    check_layers(len(row.layers) + 1, f"an image of container {row.name}")
    base = configs.parse(row.data)
    async with core.importing() as staging:
        with Intaking(core, staging, limits, None) as work:

            def layered() -> list[TakenImage]:
                below = work.intake.hold(row.layers)
                _, plain = decompressed(work.watch.wrap(source), limits=limits)
                layer = work.intake.layer(plain, below, what=f"the changes of container {row.name}")
                history = {"created": now(), "author": author, "created_by": "streamer commit", "comment": comment}
                config = configs.with_layer(base, layer.diff, {key: text for key, text in history.items() if text})
                names = (given,) if given is not None else ()
                return [TakenImage(config, names, (*below, layer))]

            images = await core.long(lambda stop: work.taken(stop, layered))
            await publish(core, work.intake, images)
    async with core.database.read() as transaction:
        made = await lookup.image(transaction, images[0].config.id, core.name)
    return await to_thread.run_sync(Records(core).image, made, limiter=core.lookups)


class Intaking:
    """The intake and the watch of one import, and the thread's way to the database."""

    def __init__(self, core: Core, staging: Staging, limits: Limits, progress: Callable[[int], None] | None) -> None:
        self._core, self._progress = core, progress
        self.intake = Intake(staging, core.ownership, limits, self._known)
        self.watch = Watch(threading.Event(), progress)

    def __enter__(self) -> Intaking:
        return self

    def __exit__(self, *_: object) -> None:
        self.intake.close()

    def taken(self, stop: threading.Event, work: Callable[[], list[TakenImage]]) -> list[TakenImage]:
        """Runs `work`, then makes durable what it wrote. In the import's thread."""
        self.watch = Watch(stop, self._progress)
        with storage("the import"):
            images = work()
            self.intake.staging.settle()
        return images

    def _known(self, chain: str) -> LayerRow | None:
        return from_thread.run(self._row, chain)

    async def _row(self, chain: str) -> LayerRow | None:
        # Shielded: begun for a thread whose task was cancelled before, anyio would let it wait for ever, in a loop that
        # turns at full speed, for a cancellation that was delivered already.
        with anyio.CancelScope(shield=True):
            async with self._core.database.read() as transaction:
                row = await catalog.layer(transaction, chain)
        return row


async def publish(
    core: Core, intake: Intake, images: list[TakenImage], step: tuple[str | None, str | None] | None = None
) -> dict[str, str]:
    """Makes everything visible at once: directories first, then the rows in one transaction. On failure neither.

    Returns the names that were another image's, with that image's ID. `step` says of a single image what it was made
    on, and under which key.
    """
    async with core.exclusive():
        async with core.database.read() as transaction:
            taken = [row for chain, row in intake.rows.items() if chain in intake.folders]
            new = {row for row in taken if await catalog.layer(transaction, row.chain) is None}
        # Another process may have imported the same layer since: then its directory stays, and ours goes. A directory
        # that has a row and yet is missing was lost, and ours repairs it.
        moving = [row for row in taken if row in new or not core.state.has_layer(row.chain)]
        try:
            await to_thread.run_sync(_move, core, intake, moving, limiter=core.changes)
            async with core.database.write() as transaction:
                for row in new:
                    await catalog.add_layer(transaction, row)
                moved = {}
                for image in images:
                    top = image.layers[-1].chain if image.layers else None
                    await catalog.add_image(transaction, image.config.id, image.config.data, top)
                    if step is not None:
                        await catalog.add_step(transaction, image.config.id, *step)
                    for name in image.names:
                        before = await catalog.point_name(transaction, name, image.config.id)
                        if before is not None:
                            moved[name.familiar] = before
                return moved
        except BaseException:
            with anyio.move_on_after(_UNDO, shield=True):
                await to_thread.run_sync(_take_back, core, moving, limiter=core.changes)
            raise


def _move(core: Core, intake: Intake, rows: list[LayerRow]) -> None:
    with storage("the import"):
        for row in rows:
            intake.staging.publish(intake.folders[row.chain], "layers", digests.encoded(row.chain))


def _take_back(core: Core, rows: list[LayerRow]) -> None:
    for row in rows:
        core.state.discard("layers", digests.encoded(row.chain))
