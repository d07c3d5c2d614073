"""Saved images: one archive of several images, streamed, with every layer once.

`oci` (see `layout`) is what every engine reads, with the layers as they were pulled where their store still has them;
`docker-legacy` (see `legacy`) a directory per layer with its tar in it, as Docker up to 24 wrote it.

The length is known beforehand, as is every byte that is no layer's own, so that any span can be given without what lies
before it; unless a layer's tar is needed whose length nobody noted (that of a compressed blob): a header holds its
member's size, so such a layer is made twice, the first time just to count, before the first byte.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

from streamer.errors import InvalidReference, InvalidRequest
from streamer.export import layout, legacy
from streamer.export.naming import stem
from streamer.export.placed import Placed
from streamer.export.plan import ExportPlan, Kind, Options, Outline, Session
from streamer.export.saved import Saved, Selected, Sizes, measured, sizes
from streamer.oci import reference
from streamer.stores.base import Image, Layer
from streamer.stores.catalog import Catalog


class Format(enum.StrEnum):
    OCI = "oci"
    DOCKER_LEGACY = "docker-legacy"


class _Form(NamedTuple):
    tars: Callable[[Iterable[Selected]], list[Layer]]
    members: Callable[[Sequence[Selected], Sizes], list[Saved]]


_OCI = _Form(layout.tars, layout.members)
_LEGACY = _Form(legacy.tars, legacy.members)


async def plan_images(
    catalog: Catalog, names: Sequence[str], options: Options, format: Format = Format.OCI, store: str | None = None
) -> ExportPlan:
    """One archive of all the named images.

    A name with a tag stands for itself, a repository without a tag for all its tags, an ID for the image without any
    name (as `docker save` has it). NotFound names the first that no store has.
    """
    if not names:
        raise InvalidRequest("cannot save images: name at least one", parameter="name")
    if not options.as_is:
        raise InvalidRequest("a saved image is given as it is: include, exclude, path, mtime and profile do not apply")
    selected: dict[str, Selected] = {}
    for name in names:
        for tag, image in await _named(catalog, name, store):
            item = selected.setdefault(image.id, Selected(image))
            if tag is not None and tag not in item.tags:
                item.tags.append(tag)
    images = list(selected.values())
    form = _OCI if format is Format.OCI else _LEGACY
    known, unknown = sizes(form.tars(images))
    build = partial(form.members, images)
    placed = Placed(build(known))  # what cannot be saved is said now
    title = f"image {', '.join(names)} of store {images[0].image.store}"
    return ExportPlan(
        kind=Kind.IMAGE,
        title=title,
        basename=stem(Kind.IMAGE, names),
        store=images[0].image.store,
        chunks=partial(_measured, build, known, unknown, title) if unknown else partial(_chunks, placed, title),
        compression=options.compression,
        size=None if unknown else placed.size,
        outline=None if unknown else partial(_outline, placed, title),
    )


async def _named(catalog: Catalog, name: str, store: str | None) -> list[tuple[reference.Reference | None, Image]]:
    try:
        parsed = reference.parse(name)
    except InvalidReference:
        return [(None, await catalog.image(name, store))]
    if parsed.tag is None and parsed.digest is None:
        found = await catalog.named(name, store)
        if found:
            return [*found]
        return [(None, await catalog.image(name, store))]
    image = await catalog.image(name, store)
    # `sha256:…` reads like a name with a tag; a name is what the image really has.
    return [(parsed if parsed in image.names else None, image)]


def _measured(
    build: Callable[[Sizes], list[Saved]], known: Sizes, unknown: Sequence[Layer], title: str, session: Session
) -> Iterator[bytes]:
    made = build({**known, **{layer.diff_id: measured(layer, session) for layer in unknown}})
    yield from _chunks(Placed(made), title, session)


def _chunks(placed: Placed, title: str, session: Session) -> Iterator[bytes]:
    return placed.part(session, (0, placed.size), title)


@contextmanager
def _outline(placed: Placed, title: str, session: Session, _first: int) -> Iterator[Outline]:
    yield Outline(placed.size, placed.etag(), lambda span: placed.part(session, span, title))
