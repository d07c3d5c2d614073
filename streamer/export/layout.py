"""`oci`: an OCI image layout plus Docker's `manifest.json` and `repositories` in the same archive.

So Docker 25 and later write it; docker, podman, skopeo, umoci and containerd all read it. An image whose manifest and
blobs its store still has is given as it was pulled, manifest, configuration and layers byte for byte: its digest in a
registry stays. Of any other image the layers are uncompressed, each named by its diff ID, under a manifest made for
them. What was pulled is for its reader to know: Docker takes layers in zstd from version 23 on, umoci not at all, and
neither umoci nor skopeo's `oci-archive:` see an image whose manifest has Docker's media type.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from streamer.errors import InvalidArchive
from streamer.export.saved import Saved, Selected, Sizes, blob_file, created_ns, directory, document, layer_file
from streamer.oci import digest as digests
from streamer.oci import document as documents
from streamer.oci import layout, manifest, media
from streamer.oci.descriptor import Descriptor
from streamer.oci.manifest import Index, Manifest, SavedImage
from streamer.stores.base import Image, Layer


def tars(images: Iterable[Selected]) -> list[Layer]:
    """The layers whose tars the archive holds: those of images that are not given as they were pulled."""
    return [layer for item in images if _pulled(item.image) is None for layer in item.image.layers]


def members(images: Sequence[Selected], sizes: Sizes) -> list[Saved]:
    """Every member in order; `sizes` has the lengths of `tars`."""
    blobs: dict[str, Saved] = {}
    index: list[Descriptor] = []
    items: list[SavedImage] = []
    repositories: dict[str, dict[str, str]] = {}
    for item in images:
        image, when = item.image, created_ns(item.image)
        pulled = _pulled(image)
        described, listed = _made(image, sizes) if pulled is None else pulled
        for layer, part in zip(image.layers, listed.layers, strict=True):
            path = layout.blob(part.digest)
            if pulled is None:
                blobs.setdefault(path, layer_file(path, layer, part.size, when))
            elif layer.blob is not None:
                blobs.setdefault(path, blob_file(path, layer, layer.blob, when))
        config = layout.blob(listed.config.digest)
        blobs.setdefault(config, document(config, image.config.data, when))
        data = listed.data() if pulled is None or image.manifest is None else image.manifest
        blobs.setdefault(layout.blob(described.digest), document(layout.blob(described.digest), data))
        for tag in item.tags:
            annotations = {media.IMAGE_NAME: tag.name, media.REF_NAME: tag.tag or "latest"}
            index.append(Descriptor(described.media_type, described.digest, described.size, annotations))
            if image.layers:
                top = digests.encoded(image.layers[-1].diff_id)
                repositories.setdefault(tag.familiar_repository, {})[tag.tag or "latest"] = top
        if not item.tags:
            index.append(described)
        paths = tuple(layout.blob(part.digest) for part in listed.layers)
        items.append(SavedImage(config, paths, tuple(tag.familiar for tag in item.tags)))
    folders = sorted({"blobs/sha256/", *(path[: path.rindex("/") + 1] for path in blobs)})
    saved = [directory(name) for name in ("blobs/", *folders)]
    saved += [blobs[path] for path in sorted(blobs)]
    saved.append(document(layout.INDEX, Index(tuple(index)).data()))
    saved.append(document("manifest.json", documents.dumps([item.value() for item in items]) + b"\n"))
    saved.append(document(layout.MARK, b'{"imageLayoutVersion": "1.0.0"}'))
    if repositories:
        saved.append(document("repositories", documents.dumps(repositories) + b"\n"))
    return saved


def _made(image: Image, sizes: Sizes) -> tuple[Descriptor, Manifest]:
    """A manifest over uncompressed layers."""
    layers = tuple(Descriptor(media.LAYER, layer.diff_id, sizes.get(layer.diff_id, 0)) for layer in image.layers)
    made = Manifest(Descriptor(media.CONFIG, image.id, len(image.config.data)), layers)
    data = made.data()
    return Descriptor(media.MANIFEST, digests.digest(data), len(data)), made


def _pulled(image: Image) -> tuple[Descriptor, Manifest] | None:
    """The manifest as it came; None unless every blob it names is there, under the very digest."""
    if image.manifest is None:
        return None
    try:
        parsed = manifest.parse(image.manifest, "the manifest of an image")
    except InvalidArchive:
        return None
    data, config = image.config.data, parsed.config if isinstance(parsed, Manifest) else None
    if not isinstance(parsed, Manifest) or config is None or config.size != len(data):
        return None
    found = hashlib.new(digests.algorithm(config.digest), data).hexdigest()
    named = [(part.digest, part.size) for part in parsed.layers]
    kept = [(each.blob.descriptor.digest, each.blob.descriptor.size) for each in image.layers if each.blob is not None]
    if found != digests.encoded(config.digest) or named != kept or len(kept) != len(image.layers):
        return None
    media_type = parsed.media_type or media.MANIFEST
    if media_type not in media.MANIFESTS:
        return None  # it would go into the index as it is, where readers pass over what they do not know
    return Descriptor(media_type, digests.digest(image.manifest), len(image.manifest)), parsed
