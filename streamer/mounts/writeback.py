"""What processes wrote to a FUSE mount and the kernel still keeps (writeback cache): written to the directory below it.

Until its last descriptor is closed, a file's new data and size may be known to the mount alone. sync(2) is no remedy:
of a FUSE file system it only starts the writing, and waits for nobody's process. syncfs(2) of the mount itself waits.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from typing import Final

from streamer.log import logger
from streamer.mounts import mountinfo

log = logger("streamer.mounts")

_SYS_PIDFD_GETFD: Final = 438  # the same number on every architecture
_PATIENCE: Final = 10.0
"""Seconds to wait for the file system's process, which may be anybody's and never answer."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc.syscall.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_int, ctypes.c_uint)
_libc.syncfs.argtypes = (ctypes.c_int,)


def written_out(target: bytes, kind: bytes) -> None:
    """Waits until the directory below the mount at `target` holds what was written through it. Nothing is opened there.

    The mount (of type `kind`) is told by the last two components of its path, in whichever mount namespace it lies. Its
    file system is reached through a descriptor that some process has of it (pidfd_getfd): whoever does not belong to
    its user namespace could not open anything there, and where nobody has one no file is being written. Where processes
    of others are not seen (a PID namespace, no CAP_SYS_PTRACE) all that can be done is sync(2). Never fails.
    """
    ending = b"/" + b"/".join(target.split(b"/")[-2:])
    seen: dict[str, dict[bytes, bytes]] = {}  # of each mount namespace: the devices of the mounts by their numbers
    pids = [name for name in os.listdir("/proc") if name.isdecimal()] if os.path.isdir("/proc/self") else []
    devices: set[bytes] = set()
    spaces: list[tuple[str, str]] = []
    for pid in pids:
        with contextlib.suppress(OSError):
            space = os.readlink(f"/proc/{pid}/ns/mnt")
            spaces.append((pid, space))
            if space not in seen:
                seen[space] = {}
                for each in mountinfo.seen(pid):
                    if each.kind == kind:
                        seen[space][each.number] = each.device
                        if each.point.endswith(ending):
                            devices.add(each.device)
    flushed = False
    for pid, space in spaces:
        numbers = {number for number, device in seen[space].items() if device in devices}
        if numbers:
            with contextlib.suppress(OSError):
                borrowed = _borrowed(int(pid), numbers)
                if borrowed is not None:
                    devices.discard(seen[space][borrowed[1]])
                    _flush(borrowed[0], target)
                    flushed = True
    if not flushed:
        os.sync()


def _borrowed(pid: int, numbers: set[bytes]) -> tuple[int, bytes] | None:
    """A duplicate of a descriptor that the process has of something in one of the mounts, and which mount; None if it
    has none."""
    with os.scandir(f"/proc/{pid}/fdinfo") as entries:
        theirs = [entry.name for entry in entries]
    for name in theirs:
        with contextlib.suppress(OSError):
            if _mount_of(f"/proc/{pid}/fdinfo/{name}") in numbers:
                handle = os.pidfd_open(pid)
                try:
                    fd = int(_libc.syscall(_SYS_PIDFD_GETFD, handle, int(name), 0))
                finally:
                    os.close(handle)
                if fd < 0:
                    continue
                # The number may be another file's by now: what counts is what was got.
                if (number := _mount_of(f"/proc/self/fdinfo/{fd}")) in numbers:
                    return fd, number
                os.close(fd)
    return None


def _mount_of(info: str) -> bytes:
    with open(info, "rb") as file:
        return next((line.split()[1] for line in file if line.startswith(b"mnt_id:")), b"")


def _flush(fd: int, target: bytes) -> None:
    """syncfs(2), and closes the descriptor; in a thread of its own, since nothing could interrupt it."""

    def flush() -> None:
        try:
            if _libc.syncfs(fd) < 0:
                log.warning("a FUSE mount was not written out", mount=os.fsdecode(target), error=ctypes.get_errno())
        finally:
            os.close(fd)

    thread = threading.Thread(target=flush, name="syncfs", daemon=True)
    try:
        thread.start()
    except RuntimeError:
        flush()
        return
    thread.join(_PATIENCE)
    if thread.is_alive():
        log.warning("a FUSE mount is not written out in time", mount=os.fsdecode(target), seconds=_PATIENCE)
