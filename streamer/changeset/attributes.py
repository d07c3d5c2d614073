"""Giving files the attributes an archive says: owner, mode, extended attributes, times, whatever the umask.

Always in this order, because chown clears set-id bits and capabilities and everything changes times.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from streamer.changeset.failures import quoted
from streamer.errors import InvalidArchive, NotPermitted, StreamerError, Unsupported

_MARKS: Final = (b"trusted.overlay.", b"user.overlay.")
_REPLACED: Final = ("user.", "trusted.", "security.capability", "system.posix_acl_")
_CAPABILITY: Final = b"security.capability"
_IDS: Final = (1 << 32) - 2  # the id above means "leave as it is" to chown

Skipped = Callable[[str], None]


@dataclass(slots=True)
class Attributes:
    """What a file gets besides its content; `mode` without the type, `mtime` in nanoseconds."""

    mode: int
    uid: int
    gid: int
    mtime: int
    xattrs: Mapping[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Attributing:
    """How attributes are given: `owner` False for an ordinary user, who owns everything and must be able to read it;
    `escape` writes names that overlayfs would take for its own marks as it escapes them itself, else they are skipped.
    """

    owner: bool
    escape: bool

    def to_file(self, fd: int, attributes: Attributes, skipped: Skipped, *, times: bool = True) -> None:
        """To an open regular file or directory."""
        directory = stat.S_ISDIR(os.fstat(fd).st_mode)
        self._own(fd, attributes)
        mode = attributes.mode & 0o7777
        if not self.owner:
            mode |= 0o700 if directory else 0o400
        os.fchmod(fd, mode)
        self._xattrs(fd, attributes.xattrs, skipped, follow=True)
        if times:
            set_times(fd, attributes.mtime)

    def to_special(self, parent: int, name: bytes, attributes: Attributes, skipped: Skipped) -> None:
        """To a FIFO, device or whiteout, without opening it: chmod by name would follow a link put there meanwhile."""
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            if stat.S_ISLNK(os.fstat(fd).st_mode):
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            here = b"/proc/self/fd/%d" % fd
            self._own(here, attributes)
            os.chmod(here, attributes.mode & 0o7777)
            self._xattrs(here, attributes.xattrs, skipped, follow=True)
            set_times(here, attributes.mtime)
        finally:
            os.close(fd)

    def to_symlink(self, parent: int, name: bytes, attributes: Attributes, skipped: Skipped) -> None:
        """To a symbolic link itself; its mode is always 0777."""
        if self.owner:
            os.chown(name, *_ids(attributes), dir_fd=parent, follow_symlinks=False)
        here = b"/proc/self/fd/%d/%b" % (parent, name)
        self._xattrs(here, attributes.xattrs, skipped, follow=False)
        set_times(name, attributes.mtime, parent=parent)

    def replace_xattrs(self, fd: int, wanted: Mapping[bytes, bytes]) -> None:
        """Removes the attributes of an existing directory that the archive's entry for it does not have."""
        for name in os.listxattr(fd):
            raw = os.fsencode(name)
            if raw in wanted or not name.startswith(_REPLACED) or raw.startswith(_MARKS):
                continue
            try:
                os.removexattr(fd, name)
            except OSError as error:
                if error.errno not in (errno.ENODATA, errno.ENOTSUP, errno.EPERM, errno.EACCES):
                    raise

    def _own(self, where: int | bytes, attributes: Attributes) -> None:
        if self.owner:
            os.chown(where, *_ids(attributes))

    def _xattrs(self, where: int | bytes, xattrs: Mapping[bytes, bytes], skipped: Skipped, *, follow: bool) -> None:
        for name, value in xattrs.items():
            for mark in _MARKS:
                if name.startswith(mark):
                    # Taken as it is, it would redirect or hide directories of the overlay this becomes part of.
                    name = mark + b"overlay." + name[len(mark) :] if self.escape else b""
                    break
            if not name:
                skipped("overlay mark")
                continue
            try:
                os.setxattr(where, name, value, follow_symlinks=follow)
            except OSError as error:
                if not self._dispensable(name, error):
                    raise _xattr_failed(name, error) from None
                skipped("extended attribute")

    def _dispensable(self, name: bytes, error: OSError) -> bool:
        if error.errno not in (errno.ENOTSUP, errno.EPERM, errno.EACCES):
            return False
        return not self.owner or name != _CAPABILITY  # without it, programs of the image would not work


def set_times(where: int | bytes, mtime: int, *, parent: int | None = None) -> None:
    """Sets both times to `mtime` nanoseconds, links not followed by name; what no clock can show becomes the epoch."""
    try:
        if isinstance(where, int) or parent is None:
            os.utime(where, ns=(mtime, mtime))
        else:
            os.utime(where, ns=(mtime, mtime), dir_fd=parent, follow_symlinks=False)
    except OverflowError:
        set_times(where, 0, parent=parent)


def _ids(attributes: Attributes) -> tuple[int, int]:
    if not (0 <= attributes.uid <= _IDS and 0 <= attributes.gid <= _IDS):
        raise InvalidArchive(f"no file can belong to {attributes.uid}:{attributes.gid}")
    return attributes.uid, attributes.gid


def _xattr_failed(name: bytes, error: OSError) -> StreamerError | OSError:
    attribute = quoted(name)
    if error.errno in (errno.EPERM, errno.EACCES):
        return NotPermitted(f"could not set {attribute}: it needs root (CAP_SETFCAP, CAP_SYS_ADMIN)")
    if error.errno in (errno.ENOTSUP, errno.ENOSPC, errno.E2BIG, errno.ERANGE):
        return Unsupported(f"could not set {attribute}: the file system has no extended attributes, or none that large")
    if error.errno == errno.EINVAL:
        return InvalidArchive(f"the value of {attribute} is not one the kernel takes")
    return error
