"""The configuration of an image: a document kept with it, whose digest is nearly always the image's ID."""

from __future__ import annotations

from streamer.errors import InvalidArchive, StoreDamaged
from streamer.oci import config as configs
from streamer.oci import digest as digests
from streamer.oci import manifest as manifests
from streamer.oci import media
from streamer.oci.config import Config
from streamer.oci.manifest import Manifest
from streamer.stores.containers_storage.records import ImageRecord


def config_digest(image: ImageRecord) -> str:
    """Under which digest the configuration is kept. StoreDamaged, NotPermitted, SourceFailed.

    An image pulled in parts, of layers that only their table of contents identifies, has an ID of another kind; its
    manifest names the configuration (c/image, `storageImageDestination`).
    """
    own = f"sha256:{image.id}"
    if digests.is_digest(own) and (own in image.documents or "manifest" not in image.documents):
        return own
    relative = image.place.document(image.id, "manifest")
    try:
        found = manifests.parse(image.place.read(relative, media.MAX_MANIFEST), image.place.shown(relative))
    except FileNotFoundError as error:
        raise image.place.failure(relative, error) from error
    except InvalidArchive as error:
        raise StoreDamaged(str(error)) from error
    if not isinstance(found, Manifest):
        raise StoreDamaged(f"{image.place.shown(relative)} is not the manifest of an image")
    return found.config.digest


def config(image: ImageRecord, digest: str) -> Config:
    """StoreDamaged naming the file where it is missing, or not what the digest says."""
    relative = image.place.document(image.id, digest)
    try:
        data = image.place.read(relative, media.MAX_CONFIG)
        parsed = configs.parse(data, image.place.shown(relative))
    except FileNotFoundError as error:
        raise image.place.failure(relative, error) from error
    except InvalidArchive as error:
        raise StoreDamaged(str(error)) from error
    if parsed.id != digest:
        raise StoreDamaged(f"{image.place.shown(relative)} does not have the digest of its name")
    return parsed
