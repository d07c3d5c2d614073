"""Saved images: one archive of several images, streamed, with every layer once and its length known beforehand.

`oci`: an OCI image layout plus Docker's `manifest.json` and `repositories` in the same archive, as Docker 25 and later
write it: docker, podman, skopeo, umoci and containerd all read it. `docker-legacy`: a directory per layer, as Docker
up to 24 wrote it (see `legacy`). Layers are uncompressed, so that a layer's name in the archive is its diff ID.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Sequence
from functools import partial

from streamer.errors import InvalidReference, InvalidRequest
from streamer.export import legacy
from streamer.export.closing import closing
from streamer.export.layer import assembled
from streamer.export.naming import basename
from streamer.export.plan import ExportPlan, Kind, Options, Session
from streamer.export.saved import Saved, Selected, created_ns, directory, document, layer_file
from streamer.export.verify import verified
from streamer.oci import digest as digests
from streamer.oci import document as documents
from streamer.oci import media, reference
from streamer.oci.descriptor import Descriptor
from streamer.oci.manifest import Index, Manifest, SavedImage
from streamer.stores.base import Image
from streamer.stores.catalog import Catalog
from streamer.tar.entry import Content, Member
from streamer.tar.header import encode
from streamer.tar.writer import archive


class Format(enum.StrEnum):
    OCI = "oci"
    DOCKER_LEGACY = "docker-legacy"


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
    build = _oci if format is Format.OCI else legacy.members
    saved = build(images)
    return ExportPlan(
        kind=Kind.IMAGE,
        title=f"image {', '.join(names)} of store {images[0].image.store}",
        basename=basename(names[0]) if len(names) == 1 else "images",
        chunks=partial(_chunks, saved),
        compression=options.compression,
        size=_size(saved),
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


def _oci(images: Sequence[Selected]) -> list[Saved]:
    blobs: dict[str, Saved] = {}
    index: list[Descriptor] = []
    items: list[SavedImage] = []
    repositories: dict[str, dict[str, str]] = {}
    for item in images:
        image, when = item.image, created_ns(item.image)
        for layer in image.layers:
            path = _blob(layer.diff_id)
            blobs.setdefault(path, layer_file(path, layer, when))
        config = Descriptor(media.CONFIG, image.id, len(image.config.data))
        layers = tuple(Descriptor(media.LAYER, layer.diff_id, layer.size or 0) for layer in image.layers)
        manifest = Manifest(config, layers).data()
        described = Descriptor(media.MANIFEST, digests.digest(manifest), len(manifest))
        blobs.setdefault(_blob(config.digest), document(_blob(config.digest), image.config.data, when))
        blobs.setdefault(_blob(described.digest), document(_blob(described.digest), manifest))
        for tag in item.tags:
            annotations = {media.IMAGE_NAME: tag.name, media.REF_NAME: tag.tag or "latest"}
            index.append(Descriptor(described.media_type, described.digest, described.size, annotations))
            if image.layers:
                top = digests.encoded(image.layers[-1].diff_id)
                repositories.setdefault(tag.familiar_repository, {})[tag.tag or "latest"] = top
        if not item.tags:
            index.append(described)
        items.append(
            SavedImage(
                _blob(config.digest),
                tuple(_blob(layer.diff_id) for layer in image.layers),
                tuple(tag.familiar for tag in item.tags),
            )
        )
    saved = [directory("blobs/"), directory("blobs/sha256/"), *(blobs[path] for path in sorted(blobs))]
    saved.append(document("index.json", Index(tuple(index)).data()))
    saved.append(document("manifest.json", documents.dumps([item.value() for item in items]) + b"\n"))
    saved.append(document("oci-layout", b'{"imageLayoutVersion": "1.0.0"}'))
    if repositories:
        saved.append(document("repositories", documents.dumps(repositories) + b"\n"))
    return saved


def _blob(digest: str) -> str:
    return f"blobs/{digests.algorithm(digest)}/{digests.encoded(digest)}"


def _size(saved: Iterable[Saved]) -> int:
    """The length of the archive, from its members alone."""
    total = 1024
    for item in saved:
        total += len(encode(item.entry, Options().profile)) + -(-item.entry.size // 512) * 512
    return total


def _chunks(saved: Sequence[Saved], session: Session) -> Iterator[bytes]:
    with closing(archive(_members(saved, session), Options().profile)) as chunks:
        yield from chunks


def _members(saved: Sequence[Saved], session: Session) -> Iterator[Member]:
    # Every layer's guard was called when its last byte was read; this end check looks at all of them once more.
    for item in saved:
        session.check()
        session.report.entries += 1
        yield item.entry, _content(item)
    for item in saved:
        if item.layer is not None and item.layer.guard is not None:
            item.layer.guard()


def _content(item: Saved) -> Content:
    if item.layer is None:
        return item.data
    layer = item.layer
    return verified(assembled(layer), f"layer {digests.short(layer.diff_id)}", layer.size, layer.diff_id)
