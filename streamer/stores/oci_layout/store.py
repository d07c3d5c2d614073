"""An OCI image layout as a store: images and their layers as blobs, no file systems and no containers.

Layouts are those of skopeo, umoci, buildah, `ctr images export`, BuildKit, and saved images unpacked. One whose blobs
lie in a directory that several layouts share (skopeo's `--dest-shared-blob-dir`) does not say where that is: its images
are listed as damaged.
"""

from __future__ import annotations

import os
from pathlib import Path

from anyio import CapacityLimiter, to_thread

from streamer.oci import layout
from streamer.stores.base import Store
from streamer.stores.index import LOOKUPS, IndexedStore
from streamer.stores.oci_layout.directory import Directory
from streamer.stores.oci_layout.index import LayoutIndex
from streamer.stores.oci_layout.reading import settled


def oci_layout(name: str, directory: Path) -> Store:
    """The layout in `directory`; it is looked at when something is asked, not before.

    An image is called by its annotation where that is a full name, `<name of the directory>:<tag>` where it is a tag.
    """
    place = Directory(os.fsencode(directory))
    repository = layout.repository(os.fsdecode(os.path.basename(place.path)))
    limiters: list[CapacityLimiter] = []

    async def read() -> LayoutIndex:
        if not limiters:  # a limiter belongs to an event loop
            limiters.append(CapacityLimiter(LOOKUPS))
        found = await to_thread.run_sync(settled, place, repository, limiter=limiters[0])
        return LayoutIndex(name, place, found)

    return IndexedStore(name, f"oci-layout:{directory}", read)
