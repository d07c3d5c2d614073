"""One layer: its original tar byte for byte where the store kept tar-split data, otherwise made from its changes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from streamer.export import subtree
from streamer.export.closing import closing
from streamer.export.diff import walked
from streamer.export.naming import stem
from streamer.export.plan import ExportPlan, Kind, Options, Outline, Session, Span
from streamer.export.verify import verified
from streamer.oci import digest as digests
from streamer.stores.base import Guard, Layer, Reading


def plan_layer(layer: Layer, options: Options) -> ExportPlan:
    """The layer's archive. Unless an option changes its entries, its digest is the diff ID and its length is known."""
    subtree.selection(options)
    title = f"layer {digests.short(layer.diff_id)} of store {layer.store}"
    if options.as_is and layer.assemble is not None:
        return ExportPlan(
            kind=Kind.LAYER,
            title=title,
            basename=stem(Kind.LAYER, [layer.diff_id]),
            store=layer.store,
            chunks=lambda _session: assembled(layer),
            compression=options.compression,
            size=layer.size,
            digest=layer.diff_id,
            outline=None if layer.size is None else partial(_outline, layer, layer.size, title),
        )
    if layer.hold is None:
        layer.held()  # says so now if the store keeps no file system
    # The layer's own directory is, to those below it, what a container's upper is to its image.
    source = walked(layer.held, options, title)
    return ExportPlan(
        kind=Kind.LAYER,
        title=title,
        basename=stem(Kind.LAYER, [layer.diff_id]),
        store=layer.store,
        chunks=partial(source.chunks, layer.guard),
        compression=options.compression,
        outline=lambda session, _: source.outline(layer.guard, session),
    )


def assembled(layer: Layer, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
    """Bytes of the layer's original tar, ended by the store's end check; who reads all of them compares the digest."""
    assert layer.assemble is not None
    return guarded(layer.assemble, layer.guard, start, stop)


def guarded(read: Reading, guard: Guard | None, start: int, stop: int | None) -> Iterator[bytes]:
    """What a store gives of a span (`stop` None: up to the end, and seen to be the end), ended by its end check."""
    with closing(read(start, stop)) as chunks:
        yield from chunks
    if guard is not None:
        guard()


@contextmanager
def _outline(layer: Layer, size: int, title: str, _session: Session, _first: int) -> Iterator[Outline]:
    """Known from the store's metadata: a diff ID is the digest of the very bytes."""

    def part(span: Span) -> Iterator[bytes]:
        start, stop = span
        return verified(assembled(layer, start, stop if stop < size else None), title, stop - start, None)

    yield Outline(size, layer.diff_id, part)
