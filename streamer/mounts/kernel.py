"""The system calls for mounting, and nothing else: the only module of streamer that calls the kernel to mount.

Every call raises OSError with the kernel's errno; where the kernel wrote an explanation into the file system context,
it is the error's text. Numbers of system calls added after 5.0 are the same on every architecture we run on.
See fsopen(2), fsconfig(2), fsmount(2), open_tree(2), mount_setattr(2), move_mount(2), openat2(2), mount(2), umount2(2),
unshare(2).
"""

from __future__ import annotations

import ctypes
import os
from types import TracebackType
from typing import Self

RDONLY = 1  # the four have the same values as MS_* of mount(2) and as MOUNT_ATTR_* of fsmount(2)
NOSUID = 2
NODEV = 4
NOEXEC = 8

_OPEN_TREE, _MOVE_MOUNT, _FSOPEN, _FSCONFIG, _FSMOUNT, _OPENAT2, _MOUNT_SETATTR = 428, 429, 430, 431, 432, 437, 442
_SET_FLAG, _SET_STRING, _SET_FD, _CMD_CREATE = 0, 1, 5, 6
_CLOEXEC = 1  # FSOPEN_CLOEXEC and FSMOUNT_CLOEXEC
_OPEN_TREE_CLONE = 1
_MOVE_MOUNT_F_EMPTY_PATH = 4
_AT_FDCWD = -100
_AT_EMPTY_PATH, _AT_RECURSIVE = 0x1000, 0x8000
_CLONE_NEWNS = 0x20000
_MS_REC, _MS_PRIVATE = 0x4000, 0x40000
_MNT_DETACH, _UMOUNT_NOFOLLOW = 2, 8
_RESOLVE_IN_ROOT = 0x10

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def _call(number: int, *arguments: int | bytes | None) -> int:
    # Variadic: an int without a type would be passed as a C int and its upper half be whatever the register held.
    typed = [ctypes.c_long(one) if isinstance(one, int) else ctypes.c_char_p(one) for one in arguments]
    return _checked(_libc.syscall(ctypes.c_long(number), *typed))


class Context:
    """A file system being configured (fsopen). A context manager: leaving it closes the context, not its mount."""

    def __init__(self, filesystem: bytes) -> None:
        self._descriptor = _call(_FSOPEN, filesystem, _CLOEXEC)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        os.close(self._descriptor)

    def flag(self, key: bytes) -> None:
        self._configure(_SET_FLAG, key, None, 0)

    def string(self, key: bytes, value: bytes) -> None:
        """At most 255 bytes: the kernel refuses more with EINVAL."""
        self._configure(_SET_STRING, key, value, 0)

    def descriptor(self, key: bytes, descriptor: int) -> None:
        """A directory, also an O_PATH one; it may be closed afterwards."""
        self._configure(_SET_FD, key, None, descriptor)

    def mounted(self, attributes: int) -> int:
        """Create the file system and give an O_PATH descriptor of its detached mount; the caller closes it."""
        self._configure(_CMD_CREATE, None, None, 0)
        return self._explained(_FSMOUNT, self._descriptor, _CLOEXEC, attributes)

    def _configure(self, command: int, key: bytes | None, value: bytes | None, number: int) -> None:
        self._explained(_FSCONFIG, self._descriptor, command, key, value, number)

    def _explained(self, *arguments: int | bytes | None) -> int:
        number, *rest = arguments
        assert isinstance(number, int)
        try:
            return _call(number, *rest)
        except OSError as error:
            raise OSError(error.errno, "; ".join(self._messages()) or error.strerror) from None

    def _messages(self) -> list[str]:
        """What the kernel said: one message a read, begun by `e `, `w ` or `i `, until ENODATA."""
        messages = []
        for _ in range(16):
            try:
                messages.append(os.read(self._descriptor, 4096)[2:].decode("utf-8", "replace").strip())
            except OSError:
                break
        return messages


def clone_mount(path: bytes) -> int:
    """An O_PATH descriptor of a detached copy of what is mounted at `path`; the caller closes it."""
    return _call(_OPEN_TREE, _AT_FDCWD, path, _OPEN_TREE_CLONE | os.O_CLOEXEC)


def guarded_clone(directory: int, attributes: int) -> int:
    """An O_PATH descriptor of a detached copy of the mount at a directory, with what is mounted below it and with these
    attributes; the caller closes it. Needs Linux 5.12."""
    flags = _AT_EMPTY_PATH | _AT_RECURSIVE
    mount = _call(_OPEN_TREE, directory, b"", _OPEN_TREE_CLONE | os.O_CLOEXEC | flags)
    try:
        wanted = (ctypes.c_uint64 * 4)(attributes)
        path, size = ctypes.c_char_p(b""), ctypes.c_long(ctypes.sizeof(wanted))
        number, descriptor = ctypes.c_long(_MOUNT_SETATTR), ctypes.c_long(mount)
        _checked(_libc.syscall(number, descriptor, path, ctypes.c_long(flags), ctypes.byref(wanted), size))
    except BaseException:
        os.close(mount)
        raise
    return mount


def move_mount(mount: int, parent: int, name: bytes) -> None:
    """Attach a detached mount at `name` in the directory `parent`; a symlink at `name` is not followed."""
    _call(_MOVE_MOUNT, mount, b"", parent, name, _MOVE_MOUNT_F_EMPTY_PATH)


def mount_overlay(source: bytes, target: bytes, flags: int, options: bytes) -> None:
    """mount(2). The caller has escaped `options` and seen to their length: the kernel cuts them silently at a page."""
    _checked(
        _libc.mount(
            ctypes.c_char_p(source),
            ctypes.c_char_p(target),
            ctypes.c_char_p(b"overlay"),
            ctypes.c_ulong(flags),
            ctypes.c_char_p(options),
        )
    )


def unmount(target: bytes, *, lazy: bool) -> None:
    """umount2(2) of what is mounted at `target`, whose last component is not followed if it is a symlink."""
    _checked(_libc.umount2(ctypes.c_char_p(target), _UMOUNT_NOFOLLOW | (_MNT_DETACH if lazy else 0)))


def leave_mount_namespace() -> None:
    """Give the CALLING THREAD a mount namespace, root and working directory of its own, for the rest of its life.

    Nothing mounted in it is seen outside. Only for threads made for this and ended after it, never pooled ones.
    """
    _checked(_libc.unshare(ctypes.c_int(_CLONE_NEWNS)))
    nothing = ctypes.c_char_p(None)
    _checked(_libc.mount(nothing, ctypes.c_char_p(b"/"), nothing, ctypes.c_ulong(_MS_REC | _MS_PRIVATE), nothing))


def openat2_works() -> bool:
    """Whether openat2(2) is there (5.6) and let through: seccomp filters of old container engines refuse it."""
    how = (ctypes.c_uint64 * 3)(os.O_PATH | os.O_CLOEXEC, 0, _RESOLVE_IN_ROOT)
    path = ctypes.c_char_p(b"/")
    size = ctypes.c_long(ctypes.sizeof(how))
    try:
        number = ctypes.c_long(_OPENAT2)
        os.close(_checked(_libc.syscall(number, ctypes.c_long(_AT_FDCWD), path, ctypes.byref(how), size)))
    except OSError:
        return False
    return True
