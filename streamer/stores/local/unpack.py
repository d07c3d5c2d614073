"""One layer from its tar to its directory: the tree in overlay form, and what gives the tar back byte for byte.

Streaming throughout: blocks of at most 1 MiB pass from the source into the files, headers into tar-split. Everything
is written below a directory of `staging/`; who publishes it makes it durable first.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

from streamer.changeset.apply import Applier, Whiteouts
from streamer.changeset.layers import Layers
from streamer.errors import shown
from streamer.mounts.mount import Ids
from streamer.stores.assembly import own_place
from streamer.stores.local import state as states
from streamer.stores.local.places import Keeper, refuse_unstored
from streamer.stores.local.source import Digesting, Source
from streamer.tar import entry as entries
from streamer.tar import split
from streamer.tar.entry import Content, Entry
from streamer.tar.source import Limits

SPLIT = "tar-split.json.gz"


@dataclass(frozen=True, slots=True)
class Ownership:
    """How a store writes: `owner` is (uid, gid) of the ordinary user whose store it is (all files are that user's,
    marks are `user.overlay.*`), None for root's (real owners, `trusted.overlay.*`)."""

    owner: tuple[int, int] | None

    @property
    def userxattr(self) -> bool:
        return self.owner is not None

    @property
    def ids(self) -> Ids | None:
        """Everything the ordinary user owns on disk is root's in a container."""
        return None if self.owner is None else Ids(((0, self.owner[0], 1),), ((0, self.owner[1], 1),))


@dataclass(frozen=True, slots=True)
class Unpacked:
    """`size` is the length of the tar in bytes."""

    diff_id: str
    size: int


def unpack(
    source: Source,
    folder: int,
    lowers: Sequence[int],
    *,
    ownership: Ownership,
    limits: Limits,
    algorithm: str = "sha256",
    terminated: bool = True,
) -> Unpacked:
    """Fills the empty directory `folder` from an uncompressed tar; `lowers` are the layers below, topmost first.

    Reads the source to its end; `terminated` is `tar.reader.Reader`'s. InvalidArchive, LimitExceeded, StorageFull,
    NotPermitted, each naming the member.
    """
    with contextlib.ExitStack() as stack:
        os.mkdir("diff", 0o755, dir_fd=folder)
        diff = os.open("diff", states.DIRECTORY, dir_fd=folder)
        stack.callback(os.close, diff)
        times = copy_root(lowers[0] if lowers else None, diff, ownership)
        keeper = Keeper(folder, diff)
        stack.callback(keeper.close)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        file = stack.enter_context(os.fdopen(os.open(SPLIT, flags, 0o600, dir_fd=folder), "w+b"))
        below = stack.enter_context(Layers(lowers, ownership.userxattr)) if lowers else None
        applier = stack.enter_context(
            Applier(
                diff,
                whiteouts=Whiteouts.OVERLAY,
                lower=below,
                owner=ownership.owner is None,
                userxattr=ownership.userxattr,
                on_replaced=keeper.replaced,
            )
        )
        hashed = Digesting(source, algorithm)
        writer = split.SplitWriter(file)
        recording = cast(
            "Generator[tuple[Entry, Content]]", split.record(hashed, writer, limits=limits, terminated=terminated)
        )
        with contextlib.closing(recording) as members:
            for index, (entry, content) in enumerate(members):
                keeper.index = index
                if entry.type == entries.DIRECTORY and not own_place(entry.name):
                    times = _describe_root(diff, entry, ownership)
                _apply(applier, keeper, entry, content)
        applier.finish()
        os.utime(diff, ns=times)  # filling the directory has changed them
        writer.close()
        file.seek(0)
        keeper.settle(file)
        return Unpacked(hashed.digest, hashed.count)


def _apply(applier: Applier, keeper: Keeper, entry: Entry, content: Content) -> None:
    if entry.type != entries.REGULAR or not entry.stored or entry.sparse is not None:
        path = applier.apply(entry, content)
        if path is not None:
            keeper.landed(entry.name, path)
            if entry.type == entries.LINK:
                keeper.linked(entry.linkname, applier.linked)
        return
    blocks = _Blocks(content)
    path = applier.apply(entry, blocks)
    if path is None:
        # A whiteout, or aufs' own bookkeeping: content there never reaches the tree, yet belongs to the tar.
        if blocks.begun:
            raise refuse_unstored(shown(entry.name))
        keeper.keep(blocks)
    else:
        keeper.landed(entry.name, path)


class _Blocks(Iterator[bytes]):
    """A member's content, which knows whether anybody has taken some of it."""

    def __init__(self, content: Content) -> None:
        self._blocks = iter([content]) if isinstance(content, bytes) else iter(content or ())
        self.begun = False

    def __next__(self) -> bytes:
        self.begun = True
        return next(self._blocks)


def _describe_root(root: int, entry: Entry, ownership: Ownership) -> tuple[int, int]:
    """The archive has a member for the root itself, which `Applier` leaves alone: it is made elsewhere."""
    if ownership.owner is None:
        os.fchown(root, entry.uid, entry.gid)
    os.fchmod(root, entry.mode if ownership.owner is None else entry.mode | 0o700)
    return entry.mtime, entry.mtime


def copy_root(below: int | None, root: int, ownership: Ownership) -> tuple[int, int]:
    """Gives a new layer's root directory the attributes of the one below it: in an overlay the topmost root counts.

    Without one below: 0755 and the epoch. Returns (atime, mtime) in nanoseconds, to be set again once it is filled.
    """
    if below is None:
        os.fchmod(root, 0o755)
        times = (0, 0)
    else:
        status = os.fstat(below)
        if ownership.owner is None:
            os.fchown(root, status.st_uid, status.st_gid)
        os.fchmod(root, status.st_mode & 0o7777)
        for name in os.listxattr(below):
            if not name.startswith(("trusted.overlay.", "user.overlay.")):
                os.setxattr(root, name, os.getxattr(below, name))
        times = (status.st_atime_ns, status.st_mtime_ns)
    os.utime(root, ns=times)
    return times
