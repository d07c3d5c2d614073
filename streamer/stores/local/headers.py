"""Whose the files of a layer are, and what may be done to them: what the members of its tar say.

In the store of an ordinary user every file on the disk is that user's and can be read, whatever the tar said.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator
from dataclasses import replace

from streamer.changeset.member import clean
from streamer.errors import SourceChanged, StoreDamaged
from streamer.oci import digest as digests
from streamer.stores.assembly import open_records, own_place
from streamer.stores.local import state as states
from streamer.stores.local.places import Places
from streamer.stores.local.unpack import SPLIT
from streamer.tar import headers as tar
from streamer.tar.entry import LINK, Entry
from streamer.tar.records import File


def headers(path: bytes, diff_id: str) -> Generator[tuple[bytes, Entry], None, None]:
    """`Layer.headers` for the layer directory `path`. SourceChanged if it was removed."""
    what = f"layer {digests.short(diff_id)}"
    with contextlib.ExitStack() as stack:
        try:
            folder = os.open(path, states.DIRECTORY)
        except OSError as error:
            raise SourceChanged(f"{what} was removed from the store meanwhile") from error
        stack.callback(os.close, folder)
        places = stack.enter_context(contextlib.closing(Places(folder)))
        try:
            file = stack.enter_context(
                open_records(SPLIT.encode(), lambda name, flags: os.open(name, flags, dir_fd=folder))
            )
        except OSError as error:
            raise StoreDamaged(f"{SPLIT} of {what} cannot be opened: {os.strerror(error.errno or 0)}") from error
        moved: dict[bytes, bytes] = {}
        """Members that lie elsewhere than their names say, for hard links to them."""
        found = stack.enter_context(contextlib.closing(tar.headers(file)))
        for number, entry in enumerate(found):
            own = own_place(entry.name)
            place = places.place(File(number, entry.name, 0, None))
            if place != own:
                moved[own] = place
            if entry.type == LINK:
                target = b"/".join(clean(entry.linkname))
                entry = replace(entry, linkname=moved.get(target, target))
            yield place, entry
