"""Nodes and changes as archive members, plainly: what a test needs to apply what it has read."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator

from streamer.changeset.apply import Applier
from streamer.changeset.change import Change, Kind, Node
from streamer.changeset.content import blocks, link_target, open_regular, xattrs
from streamer.tar.entry import BLOCK, CHAR, DIRECTORY, FIFO, LINK, REGULAR, SYMLINK, Content, Entry, Member

_TYPES = {
    stat.S_IFREG: REGULAR,
    stat.S_IFDIR: DIRECTORY,
    stat.S_IFLNK: SYMLINK,
    stat.S_IFCHR: CHAR,
    stat.S_IFBLK: BLOCK,
    stat.S_IFIFO: FIFO,
}


def members(changes: Iterable[Change]) -> Iterator[Member]:
    """Sockets are left out; hard links are found by device and inode."""
    links: dict[tuple[int, int], bytes] = {}
    for change in changes:
        directory, _, name = change.path.rpartition(b"/")
        if change.kind is Kind.DELETE:
            entry = Entry(os.path.join(directory, b".wh." + name))
            if change.node is not None:
                entry.mtime = change.node.stat.st_mtime_ns
            yield entry, None
            continue
        assert change.node is not None
        yield from _member(change.node, links)
        if change.opaque:
            yield Entry(change.path + b"/.wh..wh..opq"), None


def _member(node: Node, links: dict[tuple[int, int], bytes]) -> Iterator[Member]:
    st = node.stat
    if stat.S_ISSOCK(st.st_mode):
        return
    kind = _TYPES[stat.S_IFMT(st.st_mode)]
    entry = Entry(node.path, kind, stat.S_IMODE(st.st_mode), st.st_uid, st.st_gid, mtime=st.st_mtime_ns)
    entry.xattrs = xattrs(node)
    if kind == DIRECTORY:
        entry.name += b"/"
    elif st.st_nlink > 1:
        first = links.setdefault((st.st_dev, st.st_ino), node.path)
        if first != node.path:
            yield Entry(node.path, LINK, linkname=first), None
            return
    if kind == SYMLINK:
        entry.linkname = link_target(node)
    elif kind in (CHAR, BLOCK):
        entry.devmajor, entry.devminor = os.major(st.st_rdev), os.minor(st.st_rdev)
    elif kind == REGULAR:
        entry.size = st.st_size
        fd = open_regular(node)
        try:
            yield entry, blocks(fd, st.st_size, node.path)
        finally:
            os.close(fd)
        return
    yield entry, None


def apply_all(applier: Applier, archive: Iterable[tuple[Entry, Content]]) -> list[bytes | None]:
    """Applies and finishes; what each member was stored as."""
    stored = [applier.apply(entry, content) for entry, content in archive]
    applier.finish()
    return stored
