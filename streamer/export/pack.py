"""From files to archive members: the one place that knows both a changeset's nodes and a tar's entries.

Rules as in go-archive's Tar and ExportChanges, except where it would lose data silently: a file that cannot be read
ends the export with an error, and whiteouts found by comparing two trees carry time 0 instead of "now".
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterator
from functools import partial
from typing import TypeAlias

from streamer.changeset import content
from streamer.changeset.change import Change, Kind, Node
from streamer.errors import SourceChanged, SourceFailed, Unsupported, shown
from streamer.export.closing import closing
from streamer.export.items import Cursor, Identity, Item, Resume
from streamer.export.numbering import numbered
from streamer.export.plan import Options, Session
from streamer.export.stored import Stored, unchanged
from streamer.mounts.mount import Ids
from streamer.tar import entry as tar
from streamer.tar.entry import Content, Entry, Profile
from streamer.tar.header import encode
from streamer.tar.writer import Encoded, close

WHITEOUT = b".wh."
OPAQUE = b".wh..wh..opq"

_WHOLE = 128 << 10
"""Files up to this size are read at once and travel with their header in one chunk."""

_Data: TypeAlias = "Content | Stored"

_FACT = struct.Struct("<BHIIQQQQ")
_BITS = (1 << 64) - 1
"""Times before 1970 and after 2262 are cut to so many bits, as in C."""

_TYPES = {
    stat.S_IFDIR: tar.DIRECTORY,
    stat.S_IFLNK: tar.SYMLINK,
    stat.S_IFCHR: tar.CHAR,
    stat.S_IFBLK: tar.BLOCK,
    stat.S_IFIFO: tar.FIFO,
}


class Packer:
    """Turns the nodes or changes of one archive into its items; remembers hard links while it does.

    `live` says that the source may be written meanwhile (a container): files may then vanish before their turn comes.
    In layers nothing may, and something that did is a layer that is being removed. `ids` is the snapshot's. `resume`
    says where the nodes begin, if not at the beginning.
    """

    def __init__(
        self,
        options: Options,
        session: Session,
        cursor: Cursor,
        *,
        ids: Ids | None = None,
        live: bool,
        resume: Resume | None = None,
    ) -> None:
        self._session = session
        self._cursor = cursor
        self._numbers = ids
        self._owner = options.owner
        self._live = live
        self._profile = options.profile
        self._full = options.profile is Profile.FULL
        self._latest = None if options.mtime is None else options.mtime * 1_000_000_000
        self._links: dict[Identity, tuple[bytes, int]] = {}
        self._resume = resume

    def tree(self, nodes: Iterator[Node], *, start: bytes | None = None) -> Iterator[Item]:
        """A whole file system's items, in the walk's order. Closes `nodes` if that is a generator.

        A walk can begin again at each of them but the one at `start`; at none if that is None.
        """
        with closing(nodes) as source:
            for node in source:
                self._session.check()
                if node.path or self._full:
                    item = self.item(node)
                    if item is not None:
                        if start is not None and node.path != start:
                            item.at = node.path
                        yield item

    def changeset(self, changes: Iterator[Change]) -> Iterator[Item]:
        """A layer's items: changed files, and whiteouts for what is gone. Closes `changes` if a generator."""
        with closing(changes) as source:
            for change in source:
                self._session.check()
                if change.kind is Kind.DELETE:
                    status = None if change.node is None else change.node.stat
                    yield self._made(self._whiteout(change), None, status)
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
                item = self.item(node)
                if item is not None:
                    yield item
                    if change.opaque:
                        yield self._made(self._opaque(node), None, None)

    def item(self, node: Node, *, fixed: bool = False) -> Item | None:
        """The member of one node; None for a socket, or a file that vanished before anything about it was sent.

        `fixed` says that nobody writes to the file any more.
        """
        made = self.entry(node, fixed=fixed)
        if made is None:
            return None
        return self._made(*made, node.stat, None if made[0].type == tar.LINK else node, fixed=fixed)

    def entry(self, node: Node, *, fixed: bool = False) -> tuple[Entry, _Data] | None:
        """The header of a node's member and, where the cursor reads, its content; None as for `item`."""
        report = self._session.report
        status = node.stat
        file_type = stat.S_IFMT(status.st_mode)
        if file_type == stat.S_IFSOCK:
            report.sockets += 1
            return None
        data: _Data = None
        try:
            linked = self._linked(node)
            if linked is not None:
                return linked, None
            if file_type == stat.S_IFREG:
                entry, data = self._regular(node, fixed=fixed)
            else:
                entry = self._special(node, _TYPES[file_type])
        except SourceChanged:
            if not (self._live and _gone(node)):
                raise
            report.vanished += 1
            return None
        if status.st_nlink > 1 and file_type != stat.S_IFDIR:
            identity = _identity(status)
            self._links[identity] = (entry.name, status.st_nlink - 1)
            if self._cursor.note:
                self._cursor.links[identity] = (entry.name, self._cursor.offset)
        return entry, data

    def _made(
        self,
        entry: Entry,
        data: _Data,
        status: os.stat_result | None,
        node: Node | None = None,
        *,
        fixed: bool = False,
    ) -> Item:
        """The item of an entry; takes `data` over. `node` is that of a file with content."""
        try:
            header = encode(entry, self._profile)
        except BaseException:
            close(data)
            raise
        self._session.report.entries += 1
        whole = Encoded(entry.name, header, entry.stored, data)
        item = Item(whole.size)
        if self._cursor.read:
            item.piece = whole
        else:
            item.rest = partial(self._rest, whole, entry, node, fixed)
        if self._cursor.note:
            item.facts = fact(entry, header, status)
            item.newest = 0 if status is None else status.st_ctime_ns
        return item

    def _rest(self, whole: Encoded, entry: Entry, node: Node | None, fixed: bool, skip: int) -> Encoded:
        """A member that was only measured, opened now, without its first `skip` bytes."""
        header = whole.header[skip:]
        skip = max(0, skip - len(whole.header))
        if not entry.stored or node is None:
            return whole._replace(header=header)
        data = self._stored(content.open_regular(node), entry, node, fixed, skip)
        return whole._replace(header=header, stored=entry.stored - skip, content=data)

    def _whiteout(self, change: Change) -> Entry:
        head, _, base = change.path.rpartition(b"/")
        name = (head + b"/" if head else b"") + WHITEOUT + base
        if change.node is None:
            return Entry(name)
        status = change.node.stat
        uid, gid = self._ids(status)
        return Entry(name, mode=0o600, uid=uid, gid=gid, mtime=self._mtime(status))

    def _opaque(self, directory: Node) -> Entry:
        uid, gid = self._ids(directory.stat)
        mode = directory.stat.st_mode & 0o777
        return Entry(directory.path + b"/" + OPAQUE, mode=mode, uid=uid, gid=gid, mtime=0)

    def _linked(self, node: Node) -> Entry | None:
        """The hard-link entry of a node whose content was archived before under another name."""
        status = node.stat
        if status.st_nlink < 2 or stat.S_ISDIR(status.st_mode):
            return None
        key = _identity(status)
        first = self._links.get(key)
        if first is None:
            first = self._linked_before(key)
            if first is None:
                return None
        else:
            name, remaining = first
            if remaining > 1:
                self._links[key] = (name, remaining - 1)
            else:
                del self._links[key]
        linked = self._entry(node, node.path, tar.LINK)
        linked.linkname = first[0]
        if stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):  # go-archive keeps them in the link as well
            linked.devmajor, linked.devminor = os.major(status.st_rdev), os.minor(status.st_rdev)
        return linked

    def _linked_before(self, key: Identity) -> tuple[bytes, int] | None:
        """The first name of a file, if its member lies before what this pass began with."""
        if self._resume is None:
            return None
        found = self._resume.links.get(key)
        return found if found is not None and found[1] < self._resume.offset else None

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

    def _regular(self, node: Node, *, fixed: bool) -> tuple[Entry, _Data]:
        entry = self._entry(node, node.path, tar.REGULAR)
        size = entry.size = node.stat.st_size
        holes = self._full and size > _WHOLE and node.stat.st_blocks * 512 < size
        if size == 0 or not (self._cursor.read or holes):
            return entry, None
        descriptor = content.open_regular(node)
        try:
            if holes:
                entry.sparse = content.extents(descriptor, size)
            if not self._cursor.read:
                os.close(descriptor)
                return entry, None
            if size <= _WHOLE:
                data = os.read(descriptor, size)
                if len(data) == size:
                    if self._cursor.strict:
                        unchanged(descriptor, node)
                    os.close(descriptor)
                    return entry, data
                os.lseek(descriptor, 0, os.SEEK_SET)
        except BaseException:
            os.close(descriptor)
            raise
        return entry, self._stored(descriptor, entry, node, fixed)

    def _stored(self, descriptor: int, entry: Entry, node: Node, fixed: bool, skip: int = 0) -> Stored:
        regions = fixed and self._session.regions and node.data is None
        return Stored(descriptor, entry, node, strict=self._cursor.strict, regions=regions, skip=skip)

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
        if self._owner is not None:
            return self._owner
        if self._numbers is None:
            return status.st_uid, status.st_gid
        return self._numbers.inside(status.st_uid, status.st_gid)

    def _mtime(self, status: os.stat_result) -> int:
        return status.st_mtime_ns if self._latest is None else min(status.st_mtime_ns, self._latest)


def fact(entry: Entry, header: bytes, status: os.stat_result | None) -> bytes:
    """What tells one version of a member from another without its content: what the header says, and the identity and
    times of the file itself. Not its device: overlays are mounted afresh and get another number each time. `native`
    makes the same."""
    inode = mtime = ctime = 0
    if status is not None:
        inode = 0 if entry.type == tar.DIRECTORY else status.st_ino  # an overlay may number directories anew
        mtime, ctime = status.st_mtime_ns, status.st_ctime_ns
    plain = _FACT.pack(entry.type[0], entry.mode, entry.uid, entry.gid, entry.size, inode, mtime & _BITS, ctime & _BITS)
    said = plain + entry.name + b"\0" + entry.linkname + b"\0"
    if entry.xattrs or entry.sparse is not None or entry.devmajor or entry.devminor:
        return said + header
    return said


def _identity(status: os.stat_result) -> Identity:
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
