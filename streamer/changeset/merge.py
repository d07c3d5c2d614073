"""Walking several layers as the one tree that an overlay of them shows, without mounting anything.

For processes that may not mount, and for stores that the kernel's overlayfs would read wrongly (fuse-overlayfs).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass

from streamer.changeset.change import Node
from streamer.changeset.content import link_target
from streamer.changeset.descriptor import Components, not_opened
from streamer.changeset.failures import changed, name_too_long, quoted
from streamer.changeset.marks import WHITEOUT_PREFIX
from streamer.changeset.parts import Directory, Met, Part
from streamer.changeset.stack import Stack
from streamer.changeset.vanishing import Vanished
from streamer.changeset.walk import Select, clean_start, listing
from streamer.errors import InvalidRequest, NotFound

_NAME_MAX = 255
_RETRIES = 100


def merge(
    stack: Stack,
    *,
    within: Directory | None = None,
    start: bytes = b"",
    select: Select | None = None,
    on_vanished: Vanished | None = None,
    after: bytes = b"",
) -> Generator[Node, None, None]:
    """What `walk` yields of a mount of the layers: the same nodes in the same order, with the topmost one's attributes.

    `within` (the root by default) is the directory that `start` is found in, as `directory` gives it. Device and inode
    of a node are those of its layer. `on_vanished`, errors and what a node is good for are as in `walk`; a node of a
    file whose data lies in a lower layer (metacopy) has that in `data`. Unsupported names what cannot be told.
    """
    nodes = _Walk(stack, select, on_vanished).nodes(stack.root if within is None else within, clean_start(start))
    return nodes if not after else _from(after, nodes)


def _from(path: bytes, nodes: Generator[Node, None, None]) -> Generator[Node, None, None]:
    """The nodes from `path` on. Whatever comes before it is looked at and left out: what a directory shows is known
    only from above."""
    with closing(nodes):
        wanted = path.split(b"/")
        for node in nodes:
            if node.path.split(b"/") >= wanted:
                yield node
                break
        yield from nodes


class Branches:
    """What lies at a place that another walk of the same tree came by, and below it. `within` is the directory that all
    paths begin in. To be closed: a directory is kept for the next place, which mostly is in the same."""

    def __init__(self, stack: Stack, within: Directory, on_vanished: Vanished | None) -> None:
        self._stack = stack
        self._within = within
        self._on_vanished = on_vanished
        self._kept: tuple[bytes, Directory] = (b"", within)

    def close(self) -> None:
        self._keep(b"", self._within)

    def nodes(self, path: bytes, layer: int) -> Generator[Node, None, None]:
        """The nodes from the one at the path on, which the `layer`, counted from the topmost, was seen to have. As in
        `walk`, what has gone since is told of, and what lower layers have under its name stays hidden."""
        above, _, name = path.rpartition(b"/")
        within = self.directory(above)
        part = next((each for each in within if each.layer == layer), None)
        if part is None:
            if self._on_vanished is not None:
                self._on_vanished(path)
            return
        yield from _Walk(self._stack, None, self._on_vanished).branch(within, part, name, above)

    def directory(self, path: bytes) -> Directory:
        """The merged directory at a path, links not followed; without parts if there is none."""
        if path == self._kept[0]:
            return self._kept[1]
        here, inside = self._within, b""
        for name in path.split(b"/") if path else ():
            inside = inside + b"/" + name if inside else name
            met = self._stack.find(here, name, inside)
            part = None
            if met is not None and stat.S_ISDIR(met.stat.st_mode):
                part = self._stack.entered(met, inside)
            before, here = here, () if part is None else self._stack.merged(here, part, inside)
            if before is not self._within:
                self._stack.release(before)
        self._keep(path, here)
        return here

    def _keep(self, path: bytes, directory: Directory) -> None:
        _, left = self._kept
        self._kept = path, directory
        if left is not self._within:
            self._stack.release(left)


def directory(stack: Stack, path: bytes, within: Directory | None = None) -> Directory:
    """The merged directory at `path` in `within` (the root by default), found as in a chroot there: links are followed
    inside, `..` stops at it.

    NotFound, InvalidRequest (loops, a name that is too long).
    """
    if b"\0" in path:
        raise InvalidRequest(f"the path {quoted(path)} holds a NUL byte")
    if any(len(name) > _NAME_MAX for name in path.split(b"/")):
        raise name_too_long(path)
    trail: list[tuple[bytes, Directory]] = [(b"", stack.root if within is None else within)]
    components = Components(path)
    for name in components:
        if name == b"..":
            if len(trail) > 1:
                trail.pop()
            continue
        above, here = trail[-1]
        inside = above + b"/" + name if above else name
        met = _found(stack, here, name, inside)
        if met is None:
            raise NotFound(f"there is no {quoted(path)}")
        if stat.S_ISLNK(met.stat.st_mode):
            target = link_target(stack.node(met, inside))
            try:
                components.follow(target)
            except OSError as error:
                raise not_opened(path, error) from None
            if target.startswith(b"/"):
                del trail[1:]
            continue
        part = stack.entered(met, inside) if stat.S_ISDIR(met.stat.st_mode) else None
        if part is None:
            raise NotFound(f"there is no {quoted(path)}")
        trail.append((inside, stack.merged(here, part, inside)))
    return trail[-1][1]


def _found(stack: Stack, here: Directory, name: bytes, path: bytes) -> Met | None:
    met = stack.find(here, name, path)
    if met is not None and met.part is not here[0] and not stack.in_place(here[0], path):
        return None
    return met


@dataclass(slots=True)
class _Level:
    """A directory that is being walked. `names` are left, in descending order; `holders` tells which parts have each
    (None: its only part has them all); `above` is the length of the prefix of names in the directory above."""

    directory: Directory
    names: list[bytes]
    holders: dict[bytes, list[Part]] | None
    above: int


class _Walk:
    def __init__(self, stack: Stack, select: Select | None, on_vanished: Vanished | None) -> None:
        self._stack = stack
        self._select = select
        self._on_vanished = on_vanished
        self._levels: list[_Level] = []
        self._given: Directory | None = None
        """A directory that others keep open."""
        self._prefix = b""
        self._misses = 0

    def nodes(self, within: Directory, start: bytes) -> Generator[Node, None, None]:
        if start:
            self._levels.append(self._before(within, start))
        elif within:
            if self._emits(b"", True):
                fd = self._stack.descriptor(within[0], b"")
                yield Node(b"", b".", fd, os.fstat(fd), layer=within[0].layer)
            self._levels.append(_Level(within, [], None, 0))
            if self._select is None or self._select.enters(b""):
                self._list(b"")
        yield from self._below()

    def branch(self, within: Directory, part: Part, name: bytes, above: bytes) -> Generator[Node, None, None]:
        """What the part of the directory at `above` has under the name, and all below it."""
        self._prefix = above + b"/" if above else b""
        self._given = within
        self._levels.append(_Level(within, [name], {name: [part]}, 0))
        yield from self._below()

    def _below(self) -> Generator[Node, None, None]:
        while self._levels:
            level = self._levels[-1]
            if not level.names:
                self._leave()
                continue
            name = level.names.pop()
            path = self._prefix + name
            met = self._met(level, name, path)
            if met is None:
                continue
            if not stat.S_ISDIR(met.stat.st_mode):
                if self._emits(path, False):
                    yield self._stack.whole(level.directory, met, path)
            elif self._select is not None and not self._select.enters(path):
                if self._emits(path, True):
                    yield self._stack.node(met, path)
            elif (part := self._entered(met, path)) is None:
                level.names.append(name)  # look again: it is gone now, or something else
            else:
                if self._emits(path, True):
                    # What was opened counts, not what was looked at: node and children are of one directory.
                    status = os.fstat(part.fd)
                    yield Node(path, name, self._stack.descriptor(met.part, path), status, layer=part.layer)
                self._enter(part, path)

    def _before(self, within: Directory, start: bytes) -> _Level:
        """A level that has nothing but the start."""
        above, _, name = start.rpartition(b"/")
        if len(name) > _NAME_MAX:
            raise name_too_long(start)
        within = directory(self._stack, above, within) if above else within
        met = _found(self._stack, within, name, start)
        if met is None:
            raise NotFound(f"there is no {quoted(start)}")
        self._prefix = above + b"/" if above else b""
        return _Level(within, [name], {name: [met.part]}, 0)

    def _emits(self, path: bytes, is_dir: bool) -> bool:
        return self._select is None or self._select.emits(path, is_dir)

    def _met(self, level: _Level, name: bytes, path: bytes) -> Met | None:
        part = level.directory[0] if level.holders is None else level.holders[name][0]
        met = self._stack.look(part, name, path)
        if met is None:
            # What lower layers have under the name was hidden by what is gone: it does not come to light again.
            if self._on_vanished is not None:
                self._on_vanished(path)
            return None
        return None if self._stack.whiteout(met, path) else met

    def _entered(self, met: Met, path: bytes) -> Part | None:
        part = self._stack.entered(met, path)
        if part is not None:
            self._misses = 0
            return part
        self._misses += 1
        if self._misses > _RETRIES:
            raise changed(path, "it is replaced all the time")
        return None

    def _enter(self, part: Part, path: bytes) -> None:
        foreign = self._stack.foreign(part)
        inside = (part,) if foreign else self._stack.merged(self._levels[-1].directory, part, path)
        self._levels.append(_Level(inside, [], None, len(self._prefix)))
        self._prefix = path + b"/"
        if not foreign:
            self._list(path)

    def _leave(self) -> None:
        left = self._levels.pop()
        self._prefix = self._prefix[: left.above]
        if self._levels and self._levels[-1].names:
            self._stack.reopen(left.directory)
        if left.directory is not self._given:
            self._stack.release(left.directory)

    def _list(self, path: bytes) -> None:
        level = self._levels[-1]
        top = level.directory[0]
        fuse = self._stack.marks.fuse
        if len(level.directory) == 1 and not fuse:
            level.names = self._listing(top, path)
            return
        holders: dict[bytes, list[Part]] = {}
        deleted: set[bytes] = set()
        for part in level.directory:
            names = self._listing(part, path)
            if part is top and len(level.directory) > 1 and part.layer == 0 and not self._stack.in_place(top, path):
                if self._on_vanished is not None:
                    self._on_vanished(path)
                return
            if fuse:
                deleted.update(n[len(WHITEOUT_PREFIX) :] for n in names if n.startswith(WHITEOUT_PREFIX))
                names = [n for n in names if n not in deleted and not n.startswith(WHITEOUT_PREFIX)]
            for name in names:
                holders.setdefault(name, []).append(part)
        level.holders = holders
        level.names = sorted(holders, reverse=True)

    def _listing(self, part: Part, path: bytes) -> list[bytes]:
        return listing(self._stack.descriptor(part, path), path, self._on_vanished)
