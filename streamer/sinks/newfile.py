"""A file that appears when it is complete: without a name until then where the file system can, else with another."""

from __future__ import annotations

import errno
import os
import secrets
from contextlib import suppress


def passing(token: str | None = None) -> str:
    """The name that a file may have until it is complete: the same for the same token, else one that nothing has."""
    return f".streamer-{token or secrets.token_hex(8)}.part"


def unnamed(directory: int, temporary: str | None = None) -> tuple[int, str | None]:
    """A new file in the directory, open for writing: without a name, or with a temporary one where the file system
    needs it, `temporary` if that is given: what has that name is removed. Raises OSError."""
    if temporary is not None:
        remove(directory, temporary)
    here = f"/proc/self/fd/{directory}"
    try:
        return os.open(here, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o666), None
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL):
            raise
    temporary = temporary or passing()
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(temporary, flags, 0o666, dir_fd=directory), temporary


def tighten(fd: int, mode: int) -> None:
    """What replaces a private file, whose mode this is, is as private; never less so than a new one."""
    os.fchmod(fd, os.fstat(fd).st_mode & mode & 0o777)


def publish(
    fd: int, directory: int, temporary: str | None, name: str, *, replace: bool = True, between: str | None = None
) -> None:
    """Make the content durable, give it its name in one step, make the name durable. FileExistsError if it may not
    replace what has the name. `between` is the name that what has none may have for an instant."""
    os.fsync(fd)
    if temporary is None:
        # A link cannot replace anything, a rename can: so to replace, a passing name is needed, for an instant.
        temporary = (between or passing()) if replace else name
        os.link(f"/proc/self/fd/{fd}", temporary, dst_dir_fd=directory, follow_symlinks=True)
    try:
        if replace:
            os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
        elif temporary != name:
            os.link(temporary, name, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=False)
            remove(directory, temporary)
    except BaseException:
        remove(directory, temporary)
        raise
    os.fsync(directory)


def remove(directory: int, name: str) -> None:
    """The name is gone, if it was there."""
    with suppress(OSError):
        os.unlink(name, dir_fd=directory)
