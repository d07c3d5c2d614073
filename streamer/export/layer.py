"""One layer: its original tar byte for byte where the store kept tar-split data, otherwise made from its changes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from streamer.export import subtree
from streamer.export.closing import closing
from streamer.export.diff import archived
from streamer.export.plan import ExportPlan, Kind, Options
from streamer.oci import digest as digests
from streamer.stores.base import Layer


def plan_layer(layer: Layer, options: Options) -> ExportPlan:
    """The layer's archive. Unless an option changes its entries, its digest is the diff ID and its length is known."""
    subtree.selection(options)
    title = f"layer {digests.short(layer.diff_id)} of store {layer.store}"
    basename = f"layer-{digests.short(layer.diff_id)}"
    if options.as_is and layer.assemble is not None:
        return ExportPlan(
            kind=Kind.LAYER,
            title=title,
            basename=basename,
            chunks=lambda _session: assembled(layer),
            compression=options.compression,
            size=layer.size,
            digest=layer.diff_id,
        )
    if layer.hold is None:
        layer.held()  # says so now if the store keeps no file system
    # The layer's own directory is, to those below it, what a container's upper is to its image.
    return ExportPlan(
        kind=Kind.LAYER,
        title=title,
        basename=basename,
        chunks=partial(archived, layer.held, layer.guard, options),
        compression=options.compression,
    )


def assembled(layer: Layer) -> Iterator[bytes]:
    """The layer's original tar, ended by the store's end check."""
    assert layer.assemble is not None
    with closing(layer.assemble()) as chunks:
        yield from chunks
    if layer.guard is not None:
        layer.guard()
