"""The layer that makes a working directory: its missing directories, as Docker makes them when it starts a step."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from contextlib import closing

from streamer import drivers
from streamer.build.view import WHITEOUT
from streamer.changeset import content
from streamer.changeset.descriptor import Components, not_opened
from streamer.drivers.base import Tree
from streamer.errors import InvalidRequest, NotFound, Unsupported, shown
from streamer.mounts.mount import Ids
from streamer.mounts.table import MountTable
from streamer.stores.base import Image
from streamer.tar.entry import DIRECTORY, Entry, Member, Profile
from streamer.tar.writer import archive

_MODE = 0o755


def layer(table: MountTable, image: Image | None, path: bytes) -> Iterator[bytes]:
    """The tar, in chunks, of every directory of the absolute `path` that the image's file system lacks (None: all of
    them), owned by root, and of those above them as they are. Nothing but a tar's end if it lacks none.

    Links are followed as a chroot would. InvalidRequest where something that is no directory is in the way. Leases are
    held while it runs, and given back when it is closed.
    """
    return archive(_members(table, image, path), Profile.DOCKER)


def _members(table: MountTable, image: Image | None, path: bytes) -> Iterator[Member]:
    if image is None or not image.layers:
        yield from _missing(None, None, path)
        return
    with (
        image.layers[-1].held() as (snapshot, _),
        drivers.of(snapshot).tree(table, snapshot, shared=True, unmounted=True) as tree,
    ):
        yield from _missing(tree, snapshot.ids, path)


def _missing(tree: Tree | None, ids: Ids | None, path: bytes) -> Iterator[Member]:
    present: list[Entry] = []
    here: list[bytes] = []
    lacking = 0
    """How many of the last ones of `here` are not there."""
    components = Components(path)
    for name in components:
        if name == b"..":
            if here:
                here.pop()
                lacking = max(lacking - 1, 0)
                present = present[: len(here) - lacking]
            continue
        here.append(name)
        found = None if lacking else _found(tree, b"/".join(here))
        if found is None:
            lacking += 1
            continue
        status, target = found
        if target:
            here.pop()
            if target.startswith(b"/"):
                here, present = [], []
            try:
                components.follow(target)
            except OSError as error:
                raise not_opened(path, error) from None
        elif stat.S_ISDIR(status.st_mode):
            present.append(_entry(b"/".join(here), status, ids))
        else:
            raise InvalidRequest(f"cannot make the directory {shown(path)}: {shown(b'/'.join(here))} is no directory")
    if not lacking:
        return
    if any(name.startswith(WHITEOUT) for name in here[len(here) - lacking :]):
        raise Unsupported(f"cannot make the directory {shown(path)}: in a layer such a name means a deletion")
    for entry in present:
        yield entry, None
    # As the kernel makes them: what is made in a set-group-ID directory is one itself.
    mode = _MODE | (present[-1].mode & stat.S_ISGID if present else 0)
    now = time.time_ns()
    for count in range(len(here) - lacking, len(here)):
        yield Entry(b"/".join(here[: count + 1]) + b"/", DIRECTORY, mode, mtime=now), None


def _found(tree: Tree | None, path: bytes) -> tuple[os.stat_result, bytes] | None:
    """What lies at a path without links, and where it leads to if it is a link itself."""
    if tree is None:
        return None
    try:
        with closing(tree.nodes(path)) as nodes:
            node = next(nodes, None)
            if node is None:
                return None
            return node.stat, content.link_target(node) if stat.S_ISLNK(node.stat.st_mode) else b""
    except NotFound:
        return None


def _entry(path: bytes, status: os.stat_result, ids: Ids | None) -> Entry:
    uid, gid = (status.st_uid, status.st_gid) if ids is None else ids.inside(status.st_uid, status.st_gid)
    return Entry(path + b"/", DIRECTORY, status.st_mode & 0o7777, uid, gid, mtime=status.st_mtime_ns)
