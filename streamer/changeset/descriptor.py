"""Opening things inside a tree without ever leaving it: by directory descriptors and openat2, never by host paths.

A checked path string is worthless against somebody who renames at the same time (filepath-securejoin, CVE-2018-15664):
what is safe is a descriptor, and the next component opened from it without following a link.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Iterator
from typing import Final

from streamer.changeset.failures import changed, quoted, reading_failed
from streamer.errors import InvalidRequest, NotFound, NotPermitted, SourceFailed, Unsupported

RESOLVE_NO_XDEV: Final = 0x01
RESOLVE_NO_MAGICLINKS: Final = 0x02
RESOLVE_NO_SYMLINKS: Final = 0x04
RESOLVE_BENEATH: Final = 0x08
RESOLVE_IN_ROOT: Final = 0x10

DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
LOOKUP: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC

_SYS_OPENAT2: Final = 437  # the same number on every architecture
_LINKS: Final = 40  # the kernel's own limit of links followed in one look-up
_PIECE: Final = 4000  # below PATH_MAX, for paths of any length
_RETRIES: Final = 128


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long
_syscall.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t)


def open_directory(name: bytes, parent: int | None = None) -> int:
    """A readable descriptor of the directory `name` (a single component if `parent` is given), never through a link.

    Raises OSError: ENOTDIR or ELOOP when something else has the name.
    """
    return os.open(name, DIRECTORY, dir_fd=parent)


def openat2(dir_fd: int, path: bytes, flags: int, resolve: int = 0, *, mode: int = 0) -> int:
    """openat2(2). Raises OSError; ENOSYS where kernel (before 5.6) or a seccomp filter do not have it."""
    how = _OpenHow(flags, mode, resolve)
    while True:
        fd = _syscall(_SYS_OPENAT2, dir_fd, path, ctypes.byref(how), ctypes.sizeof(how))
        if fd >= 0:
            return int(fd)
        number = ctypes.get_errno()
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))


def open_below(root: int, path: bytes, flags: int = LOOKUP) -> int:
    """Opens `path` (relative, any length, b"" for the root itself) without following any link or leaving the mount.

    The path must not hold `..`. Raises OSError: ELOOP or ENOTDIR where a link lies on the way.
    """
    here = root
    try:
        for piece in (pieces := _pieces(path)):
            last = piece is pieces[-1]
            found = _open_piece(here, piece, flags if last else LOOKUP | os.O_DIRECTORY)
            if here != root:
                os.close(here)
            here = found
    except BaseException:
        if here != root:
            os.close(here)
        raise
    return here


def open_in_root(root: int, path: bytes, flags: int = os.O_PATH | os.O_CLOEXEC) -> int:
    """Opens a path somebody asked for as if `root` were `/`: links are followed inside it, `..` stops at it.

    The last link is followed unless `flags` has O_NOFOLLOW. Raises NotFound, InvalidRequest (loops, NUL, too long),
    Unsupported (another file system is mounted there), NotPermitted, SourceChanged (renamed under us too often),
    SourceFailed.
    Where openat2 is missing the components are opened one by one, links read and followed by hand.
    """
    if b"\0" in path:
        raise InvalidRequest(f"the path {quoted(path)} holds a NUL byte")
    resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV
    try:
        for _ in range(_RETRIES):
            try:
                return openat2(root, path or b".", flags, resolve)
            except OSError as error:
                if error.errno == errno.ENOSYS:
                    return _open_in_root_by_hand(root, path, flags)
                if error.errno != errno.EAGAIN:
                    raise
    except OSError as error:
        raise not_opened(path, error) from None
    raise changed(path, "its directories are renamed all the time")


class Components:
    """The components of a path still to be looked up in a chroot, one after the other, with those of links followed."""

    def __init__(self, path: bytes) -> None:
        self._todo = path.split(b"/")[::-1]
        self._links = 0

    def __iter__(self) -> Iterator[bytes]:
        while self._todo:
            name = self._todo.pop()
            if name not in (b"", b"."):
                yield name

    @property
    def last(self) -> bool:
        """Whether nothing comes after the component just given, not even a slash."""
        return not self._todo

    def follow(self, target: bytes) -> None:
        """Goes on with a link's target, from the root if that begins with a slash. OSError (ELOOP) after 40 links."""
        self._links += 1
        if self._links > _LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        self._todo.extend(target.split(b"/")[::-1])


def not_opened(path: bytes, error: OSError) -> NotFound | InvalidRequest | Unsupported | NotPermitted | SourceFailed:
    """The error to raise when a path that somebody asked for could not be followed to its end."""
    match error.errno:
        case errno.ENOENT | errno.ENOTDIR:
            return NotFound(f"there is no {quoted(path)}")
        case errno.ELOOP:
            return InvalidRequest(f"{quoted(path)} leads through too many symbolic links")
        case errno.ENAMETOOLONG:
            return InvalidRequest(f"the path {quoted(path)} is too long")
        case errno.EXDEV:
            return Unsupported(f"{quoted(path)} lies on another file system")
        case errno.EACCES | errno.EPERM:
            return NotPermitted(f"{quoted(path)} may not be read: this needs its owner or CAP_DAC_READ_SEARCH")
    return reading_failed(path, error)


def _pieces(path: bytes) -> list[bytes]:
    if len(path) <= _PIECE:
        return [path or b"."]
    pieces = []
    while len(path) > _PIECE:
        cut = path.rfind(b"/", 0, _PIECE)
        if cut < 0:
            break
        pieces.append(path[:cut])
        path = path[cut + 1 :]
    return [*pieces, path]


def _open_piece(here: int, path: bytes, flags: int) -> int:
    resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV
    # O_PATH with O_NOFOLLOW gives a link at the very end itself, NO_SYMLINKS or not.
    for _ in range(_RETRIES):
        try:
            return openat2(here, path, flags, resolve)
        except OSError as error:
            if error.errno == errno.ENOSYS:
                return _open_below_by_hand(here, path, flags)
            if error.errno != errno.EAGAIN:
                raise
    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))


def _open_below_by_hand(root: int, path: bytes, flags: int) -> int:
    here = root
    *parents, name = path.split(b"/")
    try:
        for component in parents:
            found = os.open(component, LOOKUP | os.O_DIRECTORY, dir_fd=here)
            if here != root:
                os.close(here)
            here = found
        return os.open(name, flags | os.O_NOFOLLOW, dir_fd=here)
    finally:
        if here != root:
            os.close(here)


def _open_in_root_by_hand(root: int, path: bytes, flags: int) -> int:
    device = os.fstat(root).st_dev
    trail = [os.open(b".", LOOKUP | os.O_DIRECTORY, dir_fd=root)]
    components = Components(path)
    try:
        for name in components:
            if name == b"..":
                if len(trail) > 1:
                    os.close(trail.pop())
                continue
            if len(trail) > 256:
                raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
            trail.append(os.open(name, LOOKUP, dir_fd=trail[-1]))
            st = os.fstat(trail[-1])
            if st.st_dev != device:
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
            if stat.S_ISLNK(st.st_mode) and not (components.last and flags & os.O_NOFOLLOW):
                target = os.readlink(b"", dir_fd=trail[-1])
                os.close(trail.pop())
                components.follow(target)
                while target.startswith(b"/") and len(trail) > 1:
                    os.close(trail.pop())
        # The descriptor found is opened again with the flags asked for: nothing is looked up by name any more.
        if flags & os.O_PATH:
            if flags & os.O_DIRECTORY and not stat.S_ISDIR(os.fstat(trail[-1]).st_mode):
                raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            return os.dup(trail[-1])
        return os.open(b"/proc/self/fd/%d" % trail[-1], flags & ~os.O_NOFOLLOW)
    finally:
        for fd in trail:
            os.close(fd)
