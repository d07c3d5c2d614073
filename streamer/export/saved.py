"""The members of a saved-image archive as plain values, shared by both of its formats."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime

from streamer.errors import Unsupported
from streamer.oci import digest as digests
from streamer.oci.reference import Reference
from streamer.stores.base import Image, Layer
from streamer.tar import entry as tar
from streamer.tar.entry import Entry


@dataclass(slots=True)
class Selected:
    """One image to be saved, and the names it is saved under (none for an image asked for by ID)."""

    image: Image
    tags: list[Reference] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Saved:
    """One member: a document held in memory, or a layer that is made while it is sent."""

    entry: Entry
    data: bytes | None = None
    layer: Layer | None = None


def directory(name: str, mtime: int = 0) -> Saved:
    return Saved(Entry(name.encode(), tar.DIRECTORY, mode=0o755, mtime=mtime))


def document(name: str, data: bytes, mtime: int = 0) -> Saved:
    return Saved(Entry(name.encode(), mode=0o644, size=len(data), mtime=mtime), data=data)


def link(name: str, target: str, mtime: int = 0) -> Saved:
    return Saved(Entry(name.encode(), tar.SYMLINK, mode=0o777, mtime=mtime, linkname=target.encode()))


def layer_file(name: str, layer: Layer, mtime: int) -> Saved:
    """A layer's uncompressed tar; Unsupported where the store did not keep what makes it byte-exact."""
    if layer.size is None or layer.assemble is None:
        raise Unsupported(
            f"cannot save an image with layer {digests.short(layer.diff_id)}: "
            f"store {layer.store} kept no tar-split data for it"
        )
    return Saved(Entry(name.encode(), mode=0o644, size=layer.size, mtime=mtime), layer=layer)


def created_ns(image: Image) -> int:
    """When the image was made, in nanoseconds since the epoch (whole seconds); 0 where it does not say."""
    try:
        moment = datetime.fromisoformat(image.config.created or "")
    except ValueError:
        return 0
    seconds = int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
    return max(seconds, 0) * 1_000_000_000
