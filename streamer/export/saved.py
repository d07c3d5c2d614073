"""The members of a saved-image archive as plain values, shared by both of its formats."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypeAlias

from streamer.errors import Unsupported
from streamer.export.closing import closing
from streamer.export.layer import assembled, guarded
from streamer.export.plan import Session
from streamer.export.verify import verified
from streamer.oci import digest as digests
from streamer.oci.reference import Reference
from streamer.stores.base import Blob, Image, Layer
from streamer.tar import entry as tar
from streamer.tar.entry import Entry

Sizes: TypeAlias = Mapping[str, int]
"""Lengths of layers' tars by diff ID."""


@dataclass(slots=True)
class Selected:
    """One image to be saved, and the names it is saved under (none for an image asked for by ID)."""

    image: Image
    tags: list[Reference] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Saved:
    """One member: a document held in memory, or a layer that is made while it is sent, or its blob as it is."""

    entry: Entry
    data: bytes | None = None
    layer: Layer | None = None
    blob: Blob | None = None

    @property
    def identity(self) -> bytes:
        """What the content follows from: itself, or its digest."""
        if self.layer is None:
            return self.data or b""
        return (self.layer.diff_id if self.blob is None else self.blob.descriptor.digest).encode()

    def content(self, start: int, stop: int) -> Iterator[bytes]:
        """Bytes of what follows the header, ended by the store's end check; the whole of a layer or a blob is compared
        with its digest before the last chunk of it."""
        if self.layer is None:
            return iter(((self.data or b"")[start:stop],))
        what, read, digest = f"layer {digests.short(self.layer.diff_id)}", self.layer.assemble, self.layer.diff_id
        if self.blob is not None:
            what, read, digest = f"the blob of {what}", self.blob.read, self.blob.descriptor.digest
        assert read is not None
        whole = (start, stop) == (0, self.entry.size)
        chunks = guarded(read, self.layer.guard, start, stop if stop < self.entry.size else None)
        return verified(chunks, what, stop - start, digest if whole else None)


def directory(name: str, mtime: int = 0) -> Saved:
    return Saved(Entry(name.encode(), tar.DIRECTORY, mode=0o755, mtime=mtime))


def document(name: str, data: bytes, mtime: int = 0) -> Saved:
    return Saved(Entry(name.encode(), mode=0o644, size=len(data), mtime=mtime), data=data)


def link(name: str, target: str, mtime: int = 0) -> Saved:
    return Saved(Entry(name.encode(), tar.SYMLINK, mode=0o777, mtime=mtime, linkname=target.encode()))


def layer_file(name: str, layer: Layer, size: int, mtime: int) -> Saved:
    """A layer's uncompressed tar."""
    return Saved(Entry(name.encode(), mode=0o644, size=size, mtime=mtime), layer=layer)


def blob_file(name: str, layer: Layer, blob: Blob, mtime: int) -> Saved:
    """A layer as it was pulled."""
    return Saved(Entry(name.encode(), mode=0o644, size=blob.descriptor.size, mtime=mtime), layer=layer, blob=blob)


def sizes(layers: Iterable[Layer]) -> tuple[dict[str, int], list[Layer]]:
    """The lengths that are known, by diff ID, and one layer for each that is not.

    Unsupported where the store did not keep what makes a layer byte-exact.
    """
    known: dict[str, int] = {}
    unknown: dict[str, Layer] = {}
    for layer in layers:
        if layer.assemble is None:
            raise Unsupported(
                f"cannot save an image with layer {digests.short(layer.diff_id)}: "
                f"store {layer.store} kept neither its blob nor tar-split data for it"
            )
        if layer.size is None:
            unknown.setdefault(layer.diff_id, layer)
        else:
            known[layer.diff_id] = layer.size
    return known, [layer for diff_id, layer in unknown.items() if diff_id not in known]


def measured(layer: Layer, session: Session) -> int:
    """The length of a layer's tar, by making it. Its digest is left to the second making, whose bytes are sent."""
    size = 0
    with closing(assembled(layer)) as chunks:
        for chunk in chunks:
            session.check()
            size += len(chunk)
    return size


def created_ns(image: Image) -> int:
    """When the image was made, in nanoseconds since the epoch (whole seconds); 0 where it does not say."""
    try:
        moment = datetime.fromisoformat(image.config.created or "")
    except ValueError:
        return 0
    seconds = int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
    return max(seconds, 0) * 1_000_000_000
