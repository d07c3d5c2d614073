"""From files to archive members: the one place that knows both a changeset's nodes and a tar's entries.

Rules as in go-archive's Tar and ExportChanges, except where it would lose data silently: a file that cannot be read
ends the export with an error, and whiteouts found by comparing two trees carry time 0 instead of "now".
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from streamer.changeset import content
from streamer.changeset.change import Change, Kind, Node
from streamer.errors import SourceChanged, SourceFailed, Unsupported, shown
from streamer.export.closing import closing
from streamer.export.numbering import numbered
from streamer.export.plan import Options, Session
from streamer.mounts.mount import Ids
from streamer.tar import entry as tar
from streamer.tar.entry import Content, Entry, Member, Profile

WHITEOUT = b".wh."
OPAQUE = b".wh..wh..opq"

_WHOLE = 128 << 10
"""Files up to this size are read at once and travel with their header in one chunk."""

_TYPES = {
    stat.S_IFDIR: tar.DIRECTORY,
    stat.S_IFLNK: tar.SYMLINK,
    stat.S_IFCHR: tar.CHAR,
    stat.S_IFBLK: tar.BLOCK,
    stat.S_IFIFO: tar.FIFO,
}


class Packer:
    """Turns the nodes or changes of one archive into its members; remembers hard links while it does.

    `live` says that the source may be written meanwhile (a container): files may then vanish before their turn comes.
    In layers nothing may, and something that did is a layer that is being removed. `ids` is the snapshot's.
    """

    def __init__(self, options: Options, session: Session, *, ids: Ids | None = None, live: bool) -> None:
        self._session = session
        self._numbers = ids
        self._live = live
        self._full = options.profile is Profile.FULL
        self._latest = None if options.mtime is None else options.mtime * 1_000_000_000
        self._links: dict[tuple[int, ...], tuple[bytes, int]] = {}

    def tree(self, nodes: Iterator[Node]) -> Iterator[Member]:
        """A whole file system's members, in the walk's order. Closes `nodes` if that is a generator."""
        with closing(nodes) as source:
            for node in source:
                self._session.check()
                if node.path or self._full:
                    member = self._member(node)
                    if member is not None:
                        yield member

    def changeset(self, changes: Iterator[Change]) -> Iterator[Member]:
        """A layer's members: changed files, and whiteouts for what is gone. Closes `changes` if a generator."""
        with closing(changes) as source:
            for change in source:
                self._session.check()
                if change.kind is Kind.DELETE:
                    yield self._whiteout(change), None
                    continue
                node = change.node
                if node is None:
                    raise SourceFailed(
                        f"cannot archive /{shown(change.path)}: it was listed as changed but is not there"
                    )
                if node.name.startswith(WHITEOUT):
                    raise Unsupported(
                        f"cannot archive /{shown(change.path)}: in a layer a name with .wh. in front means a deletion"
                    )
                member = self._member(node)
                if member is not None:
                    yield member
                    if change.opaque:
                        yield self._opaque(member[0]), None

    def _whiteout(self, change: Change) -> Entry:
        head, _, base = change.path.rpartition(b"/")
        name = (head + b"/" if head else b"") + WHITEOUT + base
        self._session.report.entries += 1
        if change.node is None:
            return Entry(name)
        status = change.node.stat
        uid, gid = self._ids(status)
        return Entry(name, mode=0o600, uid=uid, gid=gid, mtime=self._mtime(status))

    def _opaque(self, directory: Entry) -> Entry:
        self._session.report.entries += 1
        return Entry(
            directory.name + OPAQUE, mode=directory.mode & 0o777, uid=directory.uid, gid=directory.gid, mtime=0
        )

    def _member(self, node: Node) -> Member | None:
        """The member of one node; None for a socket, or a file that vanished before anything about it was sent."""
        report = self._session.report
        status = node.stat
        mode = status.st_mode
        file_type = stat.S_IFMT(mode)
        if file_type == stat.S_IFSOCK:
            report.sockets += 1
            return None
        try:
            linked = self._linked(node)
            if linked is not None:
                report.entries += 1
                return linked, None
            if file_type == stat.S_IFREG:
                member = self._regular(node)
            else:
                member = self._special(node, _TYPES[file_type]), None
        except SourceChanged:
            if not (self._live and _gone(node)):
                raise
            report.vanished += 1
            return None
        report.entries += 1
        if status.st_nlink > 1 and file_type != stat.S_IFDIR:
            self._links[_identity(status)] = (member[0].name, status.st_nlink - 1)
        return member

    def _linked(self, node: Node) -> Entry | None:
        """The hard-link entry of a node whose content was archived before under another name."""
        status = node.stat
        if status.st_nlink < 2 or stat.S_ISDIR(status.st_mode):
            return None
        key = _identity(status)
        first = self._links.get(key)
        if first is None:
            return None
        name, remaining = first
        if remaining > 1:
            self._links[key] = (name, remaining - 1)
        else:
            del self._links[key]
        linked = self._entry(node, node.path, tar.LINK)
        linked.linkname = name
        if stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):  # go-archive keeps them in the link as well
            linked.devmajor, linked.devminor = os.major(status.st_rdev), os.minor(status.st_rdev)
        return linked

    def _special(self, node: Node, kind: bytes) -> Entry:
        if kind == tar.DIRECTORY:
            return self._entry(node, node.path + b"/" if node.path else b"./", kind)
        entry = self._entry(node, node.path, kind)
        if kind == tar.SYMLINK:
            entry.linkname = content.link_target(node)
            entry.mode = 0o777
        elif kind != tar.FIFO:
            entry.devmajor, entry.devminor = os.major(node.stat.st_rdev), os.minor(node.stat.st_rdev)
        return entry

    def _regular(self, node: Node) -> Member:
        entry = self._entry(node, node.path, tar.REGULAR)
        size = entry.size = node.stat.st_size
        if size == 0:
            return entry, None
        descriptor = content.open_regular(node)
        try:
            if size <= _WHOLE:
                data = os.read(descriptor, size)
                if len(data) == size:
                    os.close(descriptor)
                    return entry, data
                os.lseek(descriptor, 0, os.SEEK_SET)
            elif self._full and node.stat.st_blocks * 512 < size:
                entry.sparse = content.extents(descriptor, size)
        except BaseException:
            os.close(descriptor)
            raise
        return entry, _stored(descriptor, entry, node.path)

    def _entry(self, node: Node, name: bytes, kind: bytes) -> Entry:
        status = node.stat
        uid, gid = self._ids(status)
        entry = Entry(name, kind, status.st_mode & 0o7777, uid, gid, 0, self._mtime(status))
        if self._full:
            entry.xattrs = content.xattrs(node)
        else:
            capability = content.capability(node)
            if capability is not None:
                entry.xattrs = {b"security.capability": capability}
        if entry.xattrs and self._numbers is not None:
            entry.xattrs = numbered(entry.xattrs, self._numbers)
        return entry

    def _ids(self, status: os.stat_result) -> tuple[int, int]:
        if self._numbers is None:
            return status.st_uid, status.st_gid
        return self._numbers.inside(status.st_uid, status.st_gid)

    def _mtime(self, status: os.stat_result) -> int:
        return status.st_mtime_ns if self._latest is None else min(status.st_mtime_ns, self._latest)


def _identity(status: os.stat_result) -> tuple[int, ...]:
    """What tells one file from another. In a live container an inode's number may come back as another file's, so what
    must not differ between two names of one file is part of it."""
    return status.st_dev, status.st_ino, status.st_mode, status.st_size, status.st_mtime_ns


def _gone(node: Node) -> bool:
    try:
        os.stat(node.name, dir_fd=node.parent, follow_symlinks=False)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return False


def _stored(descriptor: int, entry: Entry, path: bytes) -> Content:
    """The content of an open file; closes the descriptor on every way out once it was begun."""
    return _Stored(descriptor, entry, path)


class _Stored:
    """An iterator that owns a descriptor from the moment it is made: a generator never begun would not close it."""

    def __init__(self, descriptor: int, entry: Entry, path: bytes) -> None:
        self._descriptor = descriptor
        self._blocks = (
            content.blocks(descriptor, entry.size, path)
            if entry.sparse is None
            else content.extent_blocks(descriptor, entry.sparse, path)
        )

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return next(self._blocks)

    def close(self) -> None:
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)
