"""Where the embedded store keeps each file of a layer (`places`, `kept/`, `diff/`), for putting its tar together."""

from __future__ import annotations

import contextlib
import os
from functools import partial

from streamer.changeset import descriptor
from streamer.errors import SourceChanged, StoreDamaged
from streamer.oci import digest as digests
from streamer.stores import assembly as assemblies
from streamer.stores.assembly import READ, Tree, is_refusal, not_permitted
from streamer.stores.base import Reading
from streamer.stores.local import state as states
from streamer.stores.local.places import Places
from streamer.stores.local.unpack import SPLIT
from streamer.tar.records import File


def assembly(path: bytes, diff_id: str, store: str) -> Reading:
    """`Layer.assemble` for the layer directory `path` of the store of that name."""
    what = f"layer {digests.short(diff_id)} of store {store}"
    return assemblies.assembly(path + b"/" + SPLIT.encode(), partial(_Files, path, what), what)


class _Files:
    """Finds the content of each record below one layer's directory."""

    def __init__(self, path: bytes, what: str) -> None:
        self._what = what
        with contextlib.ExitStack() as stack:
            try:
                folder = os.open(path, states.DIRECTORY)
            except OSError as error:
                if is_refusal(error):
                    raise not_permitted("the directory", what) from error
                raise SourceChanged(f"{what} was removed meanwhile") from error
            stack.callback(os.close, folder)
            try:
                self._places = stack.enter_context(contextlib.closing(Places(folder)))
            except PermissionError as error:
                raise not_permitted("places.json", what) from error
            diff = self._directory(folder, "diff", stack)
            if diff is None:
                raise StoreDamaged(f"diff of {what} is missing")
            self._tree = stack.enter_context(contextlib.closing(Tree(diff, descriptor.open_below)))
            self._kept = self._directory(folder, "kept", stack)
            self._stack = stack.pop_all()

    def __enter__(self) -> _Files:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _directory(self, folder: int, name: str, stack: contextlib.ExitStack) -> int | None:
        try:
            fd = os.open(name, states.DIRECTORY, dir_fd=folder)
        except FileNotFoundError:
            return None
        except OSError as error:
            if is_refusal(error):
                raise not_permitted(name, self._what) from error
            raise StoreDamaged(f"{name} of {self._what} cannot be opened: {os.strerror(error.errno or 0)}") from error
        stack.callback(os.close, fd)
        return fd

    def open(self, record: File) -> int:
        if self._kept is not None:
            with contextlib.suppress(FileNotFoundError):
                return os.open(str(record.number), READ, dir_fd=self._kept)
        elsewhere = self._places.elsewhere(record)
        return self._tree.at(record.name if elsewhere is None else elsewhere)
