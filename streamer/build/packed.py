"""Archives that ADD unpacks: looked at once to learn what they hold, and streamed once more into the layer.

Names are taken as inside a chroot into the destination: absolute ones and links lead nowhere else.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from streamer.build.view import ROOT, WHITEOUT, View
from streamer.context.tree import Tree
from streamer.errors import InvalidArchive, LimitExceeded, SourceChanged, Unsupported, shown
from streamer.tar import sum as tarsum
from streamer.tar.compression import decompressed
from streamer.tar.entry import DIRECTORY, LINK, REGULAR, SYMLINK, Entry, Member
from streamer.tar.reader import Reader
from streamer.tar.source import Limits


@dataclass(frozen=True, slots=True)
class Packed:
    """An archive at a path of a tree, as it was when it was hashed."""

    tree: Tree
    path: bytes
    status: os.stat_result
    limits: Limits

    @contextmanager
    def reader(self) -> Iterator[Reader]:
        """Its members from the first on. SourceChanged if the file is gone, or another one now, or at the end of the
        block."""
        fd = self.tree.open(self.path)
        try:
            unchanged(fd, self.path, self.status)
            yield Reader(decompressed(_File(fd), limits=self.limits)[1], limits=self.limits)
            unchanged(fd, self.path, self.status)
        finally:
            os.close(fd)

    def is_archive(self) -> bool:
        """Whether it is one, by the first member that it has."""
        try:
            with self.reader() as reader:
                return next(iter(reader), None) is not None
        except (InvalidArchive, LimitExceeded, Unsupported):
            return False


def unchanged(fd: int, path: bytes, then: os.stat_result) -> None:
    """SourceChanged if the open file is not the one of that status, or was written to."""
    now = os.fstat(fd)
    if (now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns) != (
        then.st_dev,
        then.st_ino,
        then.st_size,
        then.st_mtime_ns,
        then.st_ctime_ns,
    ):
        raise SourceChanged(f"cannot copy {shown(path)}: it changed meanwhile")


@dataclass(frozen=True, slots=True)
class Place:
    """Where the content of a member of the layer is: the member of that number of an archive."""

    archive: Packed
    number: int


def unpack(view: View, packed: Packed, target: bytes) -> None:
    """Lays everything that the archive holds below `target`. InvalidArchive for names that lead out of it."""
    view.make_directory(target, ROOT, ROOT)
    with packed.reader() as reader:
        for number, entry in enumerate(reader):
            path = _place(view, entry, entry.name, target)
            if path == target:
                continue
            name = path + b"/" if entry.type == DIRECTORY else path
            link = _place(view, entry, entry.linkname, target) if entry.type == LINK else entry.linkname
            if entry.type == LINK:
                if link not in view.laid or view.laid[link].type == DIRECTORY:
                    raise Unsupported(
                        f"{shown(packed.path)} holds a hard link {shown(entry.name)} to what is no file in it",
                        member=shown(entry.name),
                    )
                if view.laid[link].type == LINK:
                    link = view.laid[link].linkname  # a further name of the same file
                if link == path:
                    continue
            view.make_directory(path.rpartition(b"/")[0], ROOT, ROOT)
            # As a file system would have it: a symbolic link has no mode.
            mode = 0o777 if entry.type == SYMLINK else entry.mode
            view.lay(path, replace(entry, name=name, linkname=link, sparse=None, mode=mode))
            if entry.type == LINK:
                _share(view, link, path)
            if entry.type == REGULAR and entry.size:
                view.contents[path] = Place(packed, number)


def _share(view: View, first: bytes, path: bytes) -> None:
    """A file has the mode and the owner that came with the last of its names; `View.members` gives them to all."""
    last = view.laid[path]
    mode = view.laid[first].mode if view.laid[first].type == SYMLINK else last.mode
    view.laid[first] = replace(view.laid[first], mode=mode, uid=last.uid, gid=last.gid)


def members(view: View, packed: Packed) -> Iterator[Member]:
    """The regular files of the layer whose content is in the archive, in its order."""
    wanted: dict[int, bytes] = {
        place.number: path
        for path, place in view.contents.items()
        if isinstance(place, Place) and place.archive is packed
    }
    with packed.reader() as reader:
        for number, entry in enumerate(reader):
            path = wanted.pop(number, None)
            if path is not None:
                laid = view.laid[path]
                if entry.size != laid.size:
                    break
                yield laid, tarsum.expanded(entry, reader.content())
    if wanted:
        raise SourceChanged(f"cannot unpack {shown(packed.path)}: it changed meanwhile")


def _place(view: View, entry: Entry, name: bytes, target: bytes) -> bytes:
    kept: list[bytes] = []
    for component in name.split(b"/"):
        if component == b"..":
            if not kept:
                raise InvalidArchive(f"the name {shown(name)} leads out of the archive", member=shown(entry.name))
            kept.pop()
        elif component not in (b"", b"."):
            kept.append(component)
    if not kept:
        return target
    if kept[-1].startswith(WHITEOUT):
        raise Unsupported(
            f"cannot unpack {shown(name)}: in a layer such a name means a deletion", member=shown(entry.name)
        )
    return b"/".join(filter(None, (view.real(b"/".join(kept[:-1]), target), kept[-1])))


class _File:
    def __init__(self, fd: int) -> None:
        self._fd = fd

    def read(self, size: int, /) -> bytes:
        return os.read(self._fd, size)
