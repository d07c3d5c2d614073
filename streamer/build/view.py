"""A file system that an image has, and what a new layer lays over it: names are looked up in both."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TypeAlias

from streamer.changeset import content
from streamer.changeset.descriptor import Components, not_opened
from streamer.context import paths
from streamer.context.image import ImageTree
from streamer.errors import InvalidRequest, Unsupported, shown
from streamer.tar.entry import DIRECTORY, LINK, SYMLINK, Entry

_MODE = 0o755
WHITEOUT = b".wh."
_OPAQUE = b".wh..wh..opq"
_LONGEST = 4096
"""Bytes of a path: more the kernel takes of nobody."""

Owner: TypeAlias = tuple[int, int]
ROOT: Owner = (0, 0)


@dataclass(frozen=True, slots=True)
class Found:
    """What a name means: `target` is where a symbolic link leads to, empty for everything else."""

    directory: bool
    target: bytes
    entry: Entry | None = None
    """As a member of the layer, where it is a directory of the image below."""


class View:
    """The image's tree (None: nothing) under a layer in the making. Paths are relative, b"" the root. Blocks."""

    def __init__(self, below: ImageTree | None) -> None:
        self._below = below
        self._now = time.time_ns()
        self.laid: dict[bytes, Entry] = {}
        """Members of the layer by path, without the slash of a directory."""
        self.contents: dict[bytes, object] = {}
        """Where the content of a regular file comes from, for whoever laid it."""
        self._links: dict[bytes, set[bytes]] = {}
        """Hard links of the layer by what they are links to."""
        self._children: dict[bytes, set[bytes]] = {b"": set()}
        """Below which directories there are members of the layer, level by level."""
        self._hidden: set[bytes] = set()
        """Paths at which what the image has was replaced and does not shine through: one of both is no directory."""
        self._known: dict[bytes, Found | None] = {b"": Found(True, b"")}

    def find(self, path: bytes) -> Found | None:
        """What lies at a path without links on its way."""
        laid = self.laid.get(path)
        if laid is not None:
            return Found(laid.type == DIRECTORY, laid.linkname if laid.type == SYMLINK else b"", laid)
        if path and self._covered(path):
            return None
        if path not in self._known:
            self._known[path] = self._looked(path)
        return self._known[path]

    def read(self, path: bytes, most: int) -> bytes | None:
        """The first bytes of a regular file of the image; None if there is none."""
        if self._below is None:
            return None
        with self._below.at(path) as node:
            if node is None or not stat.S_ISREG(node.stat.st_mode):
                return None
            fd = content.open_regular(node)
            try:
                return b"".join(content.blocks(fd, min(node.stat.st_size, most), path))
            finally:
                os.close(fd)

    def real(self, path: bytes, base: bytes = b"") -> bytes:
        """The path with links followed, as a chroot into `base` would: what is not there stays as it is written.
        InvalidRequest for links in circles."""
        if len(path) > _LONGEST:
            raise InvalidRequest(f"the path {shown(path[:100])}… is longer than {_LONGEST} bytes")
        here = base.split(b"/") if base else []
        top = len(here)
        components = Components(path)
        for name in components:
            if name == b"..":
                del here[max(top, len(here) - 1) :]
                continue
            here.append(name)
            found = self.find(b"/".join(here))
            if found is not None and found.target:
                here.pop()
                if found.target.startswith(b"/"):
                    del here[top:]
                try:
                    components.follow(found.target)
                except OSError as error:
                    raise not_opened(path, error) from None
        return b"/".join(here)

    def make_directory(self, path: bytes, parents: Owner, own: Owner) -> bool:
        """Makes a directory and what is missing above it; whether it is new. InvalidRequest for what is in the way."""
        found = self.find(path)
        if found is not None:
            if not found.directory:
                raise InvalidRequest(f"cannot copy into /{shown(path)}: it is no directory")
            return False
        missing = [path]
        while (above := missing[-1].rpartition(b"/")[0]) and self.find(above) is None:
            missing.append(above)
        holder = self.find(above)
        if holder is not None and not holder.directory:
            raise InvalidRequest(f"cannot copy into /{shown(above)}: it is no directory")
        for each in reversed(missing):
            holder = self.find(each.rpartition(b"/")[0])
            # As the kernel makes it: what is made in a set-group-ID directory is one itself.
            inherited = holder.entry.mode & stat.S_ISGID if holder is not None and holder.entry is not None else 0
            uid, gid = own if each == path else parents
            self.lay(each, Entry(each + b"/", DIRECTORY, _MODE | inherited, uid, gid, mtime=self._now))
        return True

    def touch(self, path: bytes) -> None:
        """Makes a directory of the image a member of the layer, as it is: what was copied into it may be nothing."""
        found = self.find(path)
        if path and found is not None and found.entry is not None and path not in self.laid:
            self.lay(path, found.entry)

    def lay(self, path: bytes, entry: Entry) -> None:
        """Puts a member in its place; what lay there is replaced, and a directory only by what is no directory."""
        if path.rpartition(b"/")[2].startswith(WHITEOUT):
            raise Unsupported(f"cannot make /{shown(path)}: in a layer such a name means a deletion")
        before = self.laid.get(path)
        if before is not None and before.type != DIRECTORY:
            self._unlink(path, before)
        if entry.type != DIRECTORY:
            for each in self._inside(path):
                self._unlink(each, self.laid[each])
            self._hidden.add(path)
        elif path and (lain := self.find(path)) is not None and not lain.directory:
            self._hidden.add(path)  # a link of the image leads nowhere any more
        self.laid[path] = entry
        if entry.type == LINK:
            self._links.setdefault(entry.linkname, set()).add(path)
        while path:
            above = path.rpartition(b"/")[0]
            children = self._children.setdefault(above, set())
            if path in children:
                break
            children.add(path)
            path = above

    def _inside(self, directory: bytes) -> list[bytes]:
        """The members below a directory, in the order of their names."""
        found, todo = [], [directory]
        while todo:
            for child in self._children.get(todo.pop(), ()):
                todo.append(child)
                if child in self.laid:
                    found.append(child)
        return sorted(found)

    def members(self) -> Iterator[tuple[bytes, Entry]]:
        """The layer: each member behind the directories above it, with those of the image as they are; and where a
        directory replaces one of the image by way of something else, the mark that hides what that held."""
        given: set[bytes] = {b""}
        for path in sorted(self.laid, key=lambda each: each.split(b"/")):
            for above in paths.above(path):
                if above not in given and above not in self.laid:
                    found = self.find(above)
                    assert found is not None and found.entry is not None
                    yield above, found.entry
                    given.add(above)
            given.add(path)
            entry = self.laid[path]
            if entry.type == LINK and (file := self.laid.get(entry.linkname)) is not None:
                entry = replace(entry, mode=file.mode, uid=file.uid, gid=file.gid)
            yield path, entry
            if entry.type == DIRECTORY and path in self._hidden:
                yield path, replace(entry, name=path + b"/" + _OPAQUE, type=b"0", mode=0)

    def _unlink(self, path: bytes, entry: Entry) -> None:
        """Takes a member away. Hard links to it are then those of the first of them, which has its content."""
        del self.laid[path]
        self._children[path.rpartition(b"/")[0]].discard(path)
        if entry.type == LINK:
            self._links.get(entry.linkname, set()).discard(path)
        source = self.contents.pop(path, None)
        links = sorted(self._links.pop(path, ()))
        if entry.type in (DIRECTORY, LINK) or not links:
            return
        first, *others = links
        self.laid[first] = replace(entry, name=first)
        if source is not None:
            self.contents[first] = source
        for name in others:
            self.laid[name] = replace(self.laid[name], linkname=first)
        self._links[first] = set(others)

    def _covered(self, path: bytes) -> bool:
        """Whether something of the layer keeps what the image has there from being seen."""
        return bool(self._hidden) and any(above in self._hidden for above in (*paths.above(path), path))

    def _looked(self, path: bytes) -> Found | None:
        if self._below is None:
            return None
        with self._below.at(path) as node:
            if node is None:
                return None
            if stat.S_ISLNK(node.stat.st_mode):
                return Found(False, content.link_target(node))
            if not stat.S_ISDIR(node.stat.st_mode):
                return Found(False, b"", _described(path, node.stat))
            return Found(True, b"", _described(path, self._below.told(node).stat))


def _described(path: bytes, status: os.stat_result) -> Entry:
    mode = status.st_mode & 0o7777
    return Entry(path + b"/", DIRECTORY, mode, status.st_uid, status.st_gid, mtime=status.st_mtime_ns)
