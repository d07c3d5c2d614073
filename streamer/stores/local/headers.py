"""Whose the files of a layer are, and what may be done to them: what the members of its tar say.

In the store of an ordinary user every file on the disk is that user's and can be read, whatever the tar said.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator
from dataclasses import replace
from functools import partial

from streamer.errors import SourceChanged, StoreDamaged
from streamer.oci import digest as digests
from streamer.stores.assembly import is_refusal, not_permitted, open_records, own_place
from streamer.stores.local import state as states
from streamer.stores.local.places import Places
from streamer.stores.local.unpack import SPLIT
from streamer.tar import headers as tar
from streamer.tar.entry import LINK, Entry
from streamer.tar.records import File


def headers(path: bytes, diff_id: str, store: str) -> Generator[tuple[bytes, Entry], None, None]:
    """`Layer.headers` for the layer directory `path` of the store of that name. SourceChanged if it was removed."""
    what = f"layer {digests.short(diff_id)} of store {store}"
    with contextlib.ExitStack() as stack:
        try:
            folder = os.open(path, states.DIRECTORY)
            stack.callback(os.close, folder)
            places = stack.enter_context(contextlib.closing(Places(folder)))
            file = stack.enter_context(open_records(SPLIT.encode(), partial(os.open, dir_fd=folder)))
        except OSError as error:
            if is_refusal(error):
                raise not_permitted("the directory", what) from error
            raise SourceChanged(f"{what} was removed meanwhile") from error
        try:
            for number, entry in enumerate(stack.enter_context(contextlib.closing(tar.headers(file)))):
                record = File(number, entry.name, 0, None)
                place = places.place(record)
                if entry.type == LINK:
                    target = places.target(record)
                    entry = replace(entry, linkname=own_place(entry.linkname) if target is None else target)
                yield place, entry
        except StoreDamaged as error:
            raise StoreDamaged(f"{SPLIT} of {what} cannot be read: {error}") from error
