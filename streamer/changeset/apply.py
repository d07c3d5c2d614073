"""Writing the members of an archive onto a tree, safely: whatever a hostile archive says stays inside the root.

Every name is taken apart and walked by descriptors; links on the way are read and followed as in a chroot, never by the
kernel. What a member is and where it goes is decided on what lies in the tree at that moment, so that no earlier member
can prepare a way out for a later one (CVE-2026-17106, the Zip Slip family, CVE-2025-4517).
"""

from __future__ import annotations

import errno
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from types import TracebackType

from streamer.changeset.attributes import Attributes, Attributing, set_times
from streamer.changeset.change import Node
from streamer.changeset.descriptor import DIRECTORY as OPEN_DIRECTORY
from streamer.changeset.descriptor import open_below, open_directory
from streamer.changeset.failures import quoted
from streamer.changeset.layers import Found, Layers
from streamer.changeset.making import make_regular, make_special
from streamer.changeset.marks import Marks
from streamer.changeset.member import (
    BLOCK,
    CHAR,
    DIRECTORY,
    LINK,
    REGULAR,
    Limits,
    MemberLike,
    Tally,
    attributes_of,
    clean,
    writing_failed,
)
from streamer.changeset.parents import FileInTheWay, Parents, Place
from streamer.changeset.removal import remove
from streamer.changeset.whiteouts import (
    METADATA,
    NO_XATTRS,
    OPAQUE,
    PREFIX,
    LayerLanding,
    TreeLanding,
    Whiteouts,
    is_whiteout,
)
from streamer.errors import InvalidArchive, LimitExceeded, StreamerError, shown

__all__ = ["Applier", "Limits", "MemberLike", "Whiteouts"]

_UNLIMITED = Limits()
_HELD = 64
"""Bytes that remembering a directory takes besides its name, roughly."""
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


class Applier:
    """Applies members one by one onto the tree at `root` (a directory descriptor that stays the caller's).

    `lower` are the layers below (only for `Whiteouts.OVERLAY`): a parent that this layer does not have is made like the
    one found there, and links found there are followed. `owner=False` is for an ordinary user: owners are not set,
    devices are skipped, everything stays readable to the user. `userxattr` says which marks to write. `on_replaced` is
    called with the path of a regular file that this archive stored, just before that name goes because a later member
    takes its place. What had to be left out is counted in `skipped` by its kind.

    Call `finish` after the last member, `close` (or leave the `with` block) in any case. After an error the tree holds
    what came before it. The same member twice: the later one counts.
    """

    def __init__(
        self,
        root: int,
        *,
        whiteouts: Whiteouts,
        lower: Layers | None = None,
        limits: Limits = _UNLIMITED,
        owner: bool = True,
        userxattr: bool = False,
        on_replaced: Callable[[bytes], None] | None = None,
    ) -> None:
        self.skipped: Counter[str] = Counter()
        self.linked = b""
        """The path of the file that the last hard link is a further name of."""
        self._root = root
        self._plain = whiteouts is Whiteouts.PLAIN
        self._owner = owner
        self._on_replaced = on_replaced
        self._marks = Marks(userxattr)
        self._give = Attributing(owner, escape=whiteouts is Whiteouts.OVERLAY)
        self._overlay = whiteouts is Whiteouts.OVERLAY
        self._landing = LayerLanding(self._marks, self._give) if self._overlay else TreeLanding()
        self._tally = Tally(limits)
        self._times: dict[bytes, int] = {}
        self._held = 0
        self._limits = limits
        self._mtime = 0
        self._parents = Parents(
            root, lower if self._overlay else None, None if self._plain else self._marks, self._imply
        )

    def __enter__(self) -> Applier:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Closes the descriptors; does not finish."""
        self._parents.close()

    def apply(self, member: MemberLike, content: Iterator[bytes] | bytes | None = None) -> bytes | None:
        """Applies one member; the path (from the root, without links) that it has in the tree now, None for the root
        itself and for what has none: whiteouts, aufs' bookkeeping, devices that were skipped.

        `content` is the member's stored bytes (of a sparse one just its extents); a generator is closed in any case.
        Raises InvalidArchive, LimitExceeded, StorageFull, NotPermitted, Unsupported or Conflict (somebody else writes
        into the tree), all with details["member"].
        """
        try:
            return self._apply(member, content)
        except StreamerError as error:
            error.details.setdefault("member", shown(member.name))
            raise
        except OSError as error:
            failure = writing_failed(member.name, error)
            failure.details["member"] = shown(member.name)
            raise failure from error
        finally:
            if content is not None and not isinstance(content, bytes) and hasattr(content, "close"):
                content.close()

    def finish(self) -> None:
        """Sets the times of all directories of the archive, which putting things into them has changed."""
        for path, mtime in sorted(self._times.items()):
            try:
                fd = open_below(self._root, path, OPEN_DIRECTORY)
                try:
                    set_times(fd, mtime)
                finally:
                    os.close(fd)
            except OSError as error:
                if error.errno not in _GONE:  # then a later member has its place
                    raise writing_failed(path, error) from error
        self._times.clear()

    def _apply(self, member: MemberLike, content: Iterator[bytes] | bytes | None) -> bytes | None:
        components = self._tally.count(member)
        if not components:
            if member.type != DIRECTORY:
                raise InvalidArchive(f"the member {quoted(member.name)} would replace the root directory")
            return None
        self._mtime = member.mtime
        parent, name = b"/".join(components[:-1]), components[-1]
        if not self._plain and self._is_deletion(member, components):
            return None
        if member.type == LINK:
            return self._link(member, parent, name)
        if member.type in (CHAR, BLOCK) and self._is_skipped_device(member):
            return None
        place = self._place(parent)
        if member.type == DIRECTORY:
            self._directory(member, place, name)
            return place.inside(name)
        self._vacate(place, name)
        self._landing.brought(place, name)
        if member.type == REGULAR:
            make_regular(place.fd, name, member, content, self._give, self._skip)
        else:
            make_special(place.fd, name, member, self._give, self._skip)
            self._parents.forget_links()
        return place.inside(name)

    def _is_deletion(self, member: MemberLike, components: list[bytes]) -> bool:
        """Carries out a whiteout or opaque marker; False for any other member."""
        base = components[-1]
        if base != OPAQUE and (base.startswith(METADATA) or components[0].startswith(METADATA)):
            self.skipped["aufs metadata"] += 1
            return True
        if not base.startswith(PREFIX):
            return False
        name = base[len(PREFIX) :]
        if name in (b"", b".", b".."):
            raise InvalidArchive(f"{quoted(member.name)} is not a valid whiteout")
        try:
            place = self._place(b"/".join(components[:-1]))
        except FileInTheWay:
            # umoci, repacking a directory that became a file, still deletes what was in the directory: nothing is left
            # there to be hidden.
            self.skipped["deletion below a file"] += 1
            return True
        if base == OPAQUE:
            self._landing.make_opaque(place)
            self._parents.forget(place.path)
        else:
            self._landing.delete(place, name, member)
            self._parents.forget(place.inside(name))
        return True

    def _place(self, path: bytes) -> Place:
        place = self._parents.find(path, make=True)
        assert place is not None  # with make=True there always is one
        return place

    def _imply(self, place: Place, name: bytes, found: Found | None) -> int:
        """Makes a directory that no member described: like the one below if there is one, else 0755 of root."""
        attributes = Attributes(0o755, 0, 0, self._mtime, NO_XATTRS)
        if found is not None and stat.S_ISDIR(found.stat.st_mode):
            st = found.stat
            attributes = Attributes(stat.S_IMODE(st.st_mode), st.st_uid, st.st_gid, st.st_mtime_ns, found.xattrs())
        fd = self._landing.make_directory(place, name)
        try:
            self._give.to_file(fd, attributes, self._skip, times=False)
        except BaseException:
            os.close(fd)
            raise
        self._note_time(place.inside(name), attributes.mtime)
        self._landing.brought(place, name)
        return fd

    def _directory(self, member: MemberLike, place: Place, name: bytes) -> None:
        fd = self._existing(place, name)
        if fd is not None:
            self._give.replace_xattrs(fd, member.xattrs)
        else:
            # A whiteout is left for make_directory, which must know that it was there.
            if not self._overlay or not is_whiteout(self._marks, place, name):
                self._vacate(place, name)
            fd = self._landing.make_directory(place, name)
            self._parents.forget_links()
        try:
            self._give.to_file(fd, attributes_of(member), self._skip, times=False)
        finally:
            os.close(fd)
        self._note_time(place.inside(name), member.mtime)
        self._landing.brought(place, name)

    def _note_time(self, path: bytes, mtime: int) -> None:
        if path not in self._times:
            self._held += len(path) + _HELD
            if self._held > self._limits.directories:
                raise LimitExceeded(
                    f"the names of the archive's directories take more than {self._limits.directories} bytes",
                    limit=self._limits.directories,
                )
        self._times[path] = mtime

    def _existing(self, place: Place, name: bytes) -> int | None:
        try:
            return open_directory(name, place.fd)
        except OSError as error:
            if error.errno in _GONE:
                return None
            raise

    def _link(self, member: MemberLike, parent: bytes, name: bytes) -> bytes:
        target = clean(member.linkname)
        missing = f"the hard link {quoted(member.name)} has no earlier member {quoted(member.linkname)} to link to"
        there = self._parents.find(b"/".join(target[:-1]), make=False) if target else None
        if there is None:
            raise InvalidArchive(missing)
        source = os.dup(there.fd)  # finding the member's own directory may close the place
        try:
            try:
                st = os.stat(target[-1], dir_fd=source, follow_symlinks=False)
            except FileNotFoundError:
                raise InvalidArchive(missing) from None
            if stat.S_ISDIR(st.st_mode) or self._marks.whiteout(Node(member.linkname, target[-1], source, st)):
                raise InvalidArchive(missing)
            self.linked = there.inside(target[-1])
            place = self._place(parent)
            if self._vacate(place, name, unless=st):
                os.link(target[-1], name, src_dir_fd=source, dst_dir_fd=place.fd, follow_symlinks=False)
                self._parents.forget_links()
            self._landing.brought(place, name)
            return place.inside(name)
        finally:
            os.close(source)

    def _is_skipped_device(self, member: MemberLike) -> bool:
        if member.type == CHAR and member.devmajor == member.devminor == 0:
            raise InvalidArchive(f"{quoted(member.name)} is the device 0:0, which overlayfs takes for a deletion")
        if not self._owner:
            self.skipped["device"] += 1
        return not self._owner

    def _vacate(self, place: Place, name: bytes, *, unless: os.stat_result | None = None) -> bool:
        """Takes away whatever has the name; False if that is the file `unless`, whose last name it might be."""
        try:
            st = os.stat(name, dir_fd=place.fd, follow_symlinks=False)
        except FileNotFoundError:
            return True
        if unless is not None and (st.st_dev, st.st_ino) == (unless.st_dev, unless.st_ino):
            return False
        path = place.inside(name)
        if not stat.S_ISREG(st.st_mode):
            self._parents.forget(path)
        remove(place.fd, name, path, on_file=self._replaced)
        return True

    def _replaced(self, path: bytes) -> None:
        if self._on_replaced is not None and self._landing.is_own(path):
            self._on_replaced(path)

    def _skip(self, kind: str) -> None:
        self.skipped[kind] += 1
