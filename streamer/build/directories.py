"""The layer that makes a working directory: its missing directories, as Docker makes them when it starts a step."""

from __future__ import annotations

import stat
import time
from collections.abc import Iterator

from streamer.build.view import WHITEOUT
from streamer.changeset import content
from streamer.changeset.descriptor import Components, not_opened
from streamer.context.image import ImageTree, opened
from streamer.context.recorded import Known
from streamer.errors import InvalidRequest, Unsupported, shown
from streamer.mounts.table import MountTable
from streamer.stores.base import Image
from streamer.tar.entry import DIRECTORY, Entry, Member, Profile
from streamer.tar.writer import archive

_MODE = 0o755


def layer(table: MountTable, image: Image | None, path: bytes, known: Known | None = None) -> Iterator[bytes]:
    """The tar, in chunks, of every directory of the absolute `path` that the image's file system lacks (None: all of
    them), owned by root, and of those above them as they are. Nothing but a tar's end if it lacks none.

    Links are followed as a chroot would; `known` is as of `context.image.opened`. InvalidRequest where something that
    is no directory is in the way. Leases are held while it runs, and given back when it is closed.
    """
    return archive(_members(table, image, path, known), Profile.DOCKER)


def _members(table: MountTable, image: Image | None, path: bytes, known: Known | None) -> Iterator[Member]:
    with opened(table, image, known=known) as tree:
        yield from _missing(tree, path)


def _missing(tree: ImageTree | None, path: bytes) -> Iterator[Member]:
    present: list[bytes] = []
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
        mode, target = found
        if target:
            here.pop()
            if target.startswith(b"/"):
                here, present = [], []
            try:
                components.follow(target)
            except OSError as error:
                raise not_opened(path, error) from None
        elif stat.S_ISDIR(mode):
            present.append(b"/".join(here))
        else:
            raise InvalidRequest(f"cannot make the directory {shown(path)}: {shown(b'/'.join(here))} is no directory")
    if not lacking:
        return
    if any(name.startswith(WHITEOUT) for name in here[len(here) - lacking :]):
        raise Unsupported(f"cannot make the directory {shown(path)}: in a layer such a name means a deletion")
    mode = _MODE
    for each in present:
        entry = _entry(tree, each)
        # As the kernel makes them: what is made in a set-group-ID directory is one itself.
        mode = _MODE | entry.mode & stat.S_ISGID
        yield entry, None
    now = time.time_ns()
    for count in range(len(here) - lacking, len(here)):
        yield Entry(b"/".join(here[: count + 1]) + b"/", DIRECTORY, mode, mtime=now), None


def _found(tree: ImageTree | None, path: bytes) -> tuple[int, bytes] | None:
    """The mode of what lies at a path without links, and where it leads to if it is a link itself."""
    if tree is None:
        return None
    with tree.at(path) as node:
        if node is None:
            return None
        return node.stat.st_mode, content.link_target(node) if stat.S_ISLNK(node.stat.st_mode) else b""


def _entry(tree: ImageTree | None, path: bytes) -> Entry:
    status = None if tree is None else tree.status(path)
    assert status is not None  # it was found
    mode = status.st_mode & 0o7777
    return Entry(path + b"/", DIRECTORY, mode, status.st_uid, status.st_gid, mtime=status.st_mtime_ns)
