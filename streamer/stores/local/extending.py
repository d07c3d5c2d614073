"""A new image on another one, or on nothing: what an instruction of a Dockerfile makes."""

from __future__ import annotations

from typing import Any

from anyio import to_thread

from streamer.database import Duplicate
from streamer.errors import NotFound
from streamer.oci import config as configs
from streamer.oci import digest as digests
from streamer.stores.base import Image
from streamer.stores.local import catalog, lookup
from streamer.stores.local.archives import check_layers
from streamer.stores.local.catalog import LayerRow
from streamer.stores.local.core import Core
from streamer.stores.local.importing import Intaking, publish
from streamer.stores.local.ingest import now
from streamer.stores.local.intake import TakenImage
from streamer.stores.local.records import Records
from streamer.stores.local.source import Source
from streamer.tar.compression import decompressed
from streamer.tar.source import Limits

_EMPTY = digests.digest(bytes(1024))
"""A tar without members."""


async def extend(
    core: Core,
    parent: str | None,
    source: Source | None,
    runtime: dict[str, Any],
    *,
    created_by: str,
    author: str,
    key: str | None,
    limits: Limits,
) -> Image:
    """See `LocalStore.extend`."""
    below: tuple[LayerRow, ...] = ()
    base = None
    if parent is not None:
        async with core.database.read() as transaction:
            row = await catalog.image(transaction, parent)
        if row is None:
            raise NotFound(f"image {digests.short(parent)} was removed meanwhile")
        base, below = configs.parse(row.data), row.layers
    check_layers(len(below) + 1, "an image")
    async with core.importing() as staging:
        with Intaking(core, staging, limits, None) as work:

            def taken() -> list[TakenImage]:
                layers, diff = work.intake.hold(below), None
                if source is not None:
                    _, plain = decompressed(work.watch.wrap(source), limits=limits)
                    layer = work.intake.layer(plain, below, what="the new layer")
                    if layer.diff == _EMPTY:
                        work.intake.forget(layer)
                    else:
                        layers, diff = (*layers, layer), layer.diff
                config = configs.extended(base, diff, runtime, created=now(), created_by=created_by, author=author)
                return [TakenImage(config, (), layers)]

            (image,) = await core.long(lambda stop: work.taken(stop, taken))
            try:
                await publish(core, work.intake, [image], step=(parent, key))
            except Duplicate as error:
                # Of what a step names only the image below can be gone.
                raise NotFound(f"image {digests.short(parent or '')} was removed meanwhile") from error
    async with core.database.read() as transaction:
        made = await lookup.image(transaction, image.config.id, core.name)
    return await to_thread.run_sync(Records(core).image, made, limiter=core.lookups)
