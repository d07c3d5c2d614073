"""COPY and ADD without a container: the layer is a tar made of the picked files, and goes to the store as it is made.

Whose files they become, what is made above them and what is replaced is as Docker's classic builder does it, which
copies with tar as well.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from streamer.build import owners
from streamer.build.packed import Packed, Place, members, unchanged, unpack
from streamer.build.view import ROOT, WHITEOUT, Owner, View
from streamer.changeset import content
from streamer.context import paths
from streamer.context.image import opened
from streamer.context.pick import Item
from streamer.context.recorded import Known
from streamer.context.tree import Tree, packer
from streamer.errors import InvalidRequest, SourceChanged, Unsupported, shown
from streamer.export.closing import closing
from streamer.mounts.table import MountTable
from streamer.stores.base import Image
from streamer.tar.entry import DIRECTORY, LINK, REGULAR, SYMLINK, Entry, Member, Profile
from streamer.tar.source import Limits
from streamer.tar.writer import archive


@dataclass(frozen=True, slots=True)
class Manner:
    """`destination` is absolute; one that ends in a slash is a directory. `chown` as written, empty for none; `mode`
    for every file and directory copied, None for their own. `keep`: whether files keep their owners unless `chown`
    says otherwise. `unpack`: whether archives are unpacked, within `limits`."""

    destination: bytes
    chown: str = ""
    mode: int | None = None
    keep: bool = False
    unpack: bool = False
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, slots=True)
class _Source:
    """A regular file to be read: of a tree, as it was when it was looked at."""

    tree: Tree
    path: bytes
    status: os.stat_result


def layer(
    table: MountTable, parent: Image | None, items: tuple[Item, ...], manner: Manner, known: Known | None = None
) -> Iterator[bytes]:
    """The tar, in chunks, of what copying the items onto the file system of `parent` (None: an empty one) adds to it.

    `known` is as of `context.image.opened`. Leases are held while it runs, and given back when it is closed.
    InvalidRequest for what is in the way, and for an owner that the image does not know; SourceChanged, SourceFailed.
    """
    return archive(_members(table, parent, items, manner, known), Profile.DOCKER)


def _members(
    table: MountTable, parent: Image | None, items: tuple[Item, ...], manner: Manner, known: Known | None
) -> Iterator[Member]:
    with _view(table, parent, known) as view:
        given = owners.owner(view, manner.chown) if manner.chown else None if manner.keep else ROOT
        archives = [packed for item in items if (packed := _place(view, item, manner, given)) is not None]
        later: list[Entry] = []
        done: set[bytes] = set()
        for path, entry in view.members():
            source = view.contents.get(path) if entry.type == REGULAR else None
            if isinstance(source, Place):
                continue
            if entry.type == LINK and entry.linkname not in done:
                later.append(entry)  # it may come in front of what it is a link to, in an archive's own order
                continue
            done.add(path)
            yield entry, _content(source) if isinstance(source, _Source) else None
        # What comes out of archives comes in their order: nothing of them is kept.
        for packed in archives:
            yield from members(view, packed)
        for entry in later:
            yield entry, None


@contextmanager
def _view(table: MountTable, parent: Image | None, known: Known | None) -> Iterator[View]:
    with opened(table, parent, known=known) as tree:
        yield View(tree)


def _place(view: View, item: Item, manner: Manner, given: Owner | None) -> Packed | None:
    """Lays an item into the view; an archive that it is, and that was to be unpacked."""
    target = view.real(manner.destination)
    if item.is_directory:
        if not view.make_directory(target, ROOT, given or ROOT):
            view.touch(target)
    else:
        status = item.tree.status(item.path)
        if status is None:
            raise SourceChanged(f"cannot copy {shown(item.path)}: it is gone")
        item.tree.check(item.path, status)
        packed = Packed(item.tree, item.path, status, manner.limits)
        if manner.unpack and not item.fetched and packed.is_archive():
            unpack(view, packed, target)
            return packed
        found = view.find(target)
        if manner.destination.endswith(b"/") or (found is not None and found.directory):
            target = b"/".join(filter(None, (target, item.name)))
        view.make_directory(target.rpartition(b"/")[0], given or ROOT, given or ROOT)
    _copy(view, item, target, manner, given)
    return None


def _copy(view: View, item: Item, target: bytes, manner: Manner, given: Owner | None) -> None:
    packing = packer(None)
    with closing(item.tree.nodes(item.path)) as nodes:
        for node in nodes:
            made = packing.entry(node)
            if made is None or (item.is_directory and node.path == item.path):
                continue
            rest = node.path[len(item.path) :].lstrip(b"/")
            path = b"/".join(filter(None, (target, rest)))
            if path.rpartition(b"/")[2].startswith(WHITEOUT):
                raise Unsupported(f"cannot copy {shown(node.path)}: in a layer such a name means a deletion")
            entry = _rebased(made[0], path, item.path, target)
            view.make_directory(path.rpartition(b"/")[0], given or ROOT, given or ROOT)
            view.lay(path, _owned(entry, given, manner.mode))
            item.tree.check(node.path, node.stat)
            if entry.type == REGULAR and entry.size:
                view.contents[path] = _Source(item.tree, node.path, node.stat)


def _rebased(entry: Entry, path: bytes, start: bytes, target: bytes) -> Entry:
    name = path + b"/" if entry.type == DIRECTORY else path
    if entry.type == LINK:
        rest = entry.linkname[len(start) :].lstrip(b"/")
        return replace(entry, name=name, linkname=b"/".join(filter(None, (target, rest))))
    return replace(entry, name=name)


def _owned(entry: Entry, owner: Owner | None, mode: int | None) -> Entry:
    """The entry with the owner that the copy gives it; a change of owner takes away what a file may do as its owner."""
    if owner is not None:
        entry.uid, entry.gid = owner
        if entry.type in (REGULAR, LINK):
            entry.mode &= ~stat.S_ISUID
            if entry.mode & stat.S_IXGRP:
                entry.mode &= ~stat.S_ISGID
            entry.xattrs = {}
    if mode is not None and entry.type != SYMLINK:
        entry.mode = mode
    return entry


def _content(source: _Source) -> Iterator[bytes]:
    fd = source.tree.open(source.path)
    try:
        unchanged(fd, source.path, source.status)
        yield from content.blocks(fd, source.status.st_size, source.path)
        unchanged(fd, source.path, source.status)
    finally:
        os.close(fd)


def directories(table: MountTable, image: Image | None, names: Sequence[str], known: Known | None = None) -> None:
    """InvalidRequest for a path of `names` at which, or on the way to which, the image has what is no directory."""
    with _view(table, image, known) as view:
        for name in names:
            real = view.real(os.fsencode(name).lstrip(b"/"))
            for path in (*paths.above(real), real):
                found = view.find(path)
                if found is not None and not found.directory:
                    raise InvalidRequest(f"{name[:200]!r} cannot be a directory: the image has a file /{shown(path)}")
