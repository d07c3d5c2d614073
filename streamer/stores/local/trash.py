"""Deletes trees of any depth and shape with two descriptors.

Every directory found is first moved up into the trash itself and emptied later, so no path grows and nothing recurses;
killed half-way, the next run simply finds more, shallower directories.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def empty(trash: int) -> None:
    """Deletes everything in the directory `trash`. Another process doing the same at once is no failure.

    What cannot be deleted keeps nothing else from it; the first reason is raised when only such things are left.
    """
    stuck: set[str] = set()
    failure: OSError | None = None
    while names := [name for name in os.listdir(trash) if name not in stuck]:
        for name in names:
            try:
                _remove(trash, name)
            except FileNotFoundError:
                pass
            except OSError as error:
                failure = failure or error
                stuck.add(name)
    if failure is not None:
        raise failure


def _remove(trash: int, name: str) -> None:
    try:
        fd = os.open(name, _DIRECTORY, dir_fd=trash)
    except PermissionError:  # an ordinary user's layer may hold directories that it may not enter
        os.chmod(name, 0o700, dir_fd=trash)
        fd = os.open(name, _DIRECTORY, dir_fd=trash)
    except OSError as error:
        if error.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise
        os.unlink(name, dir_fd=trash)
        return
    try:
        if os.geteuid() != 0:
            os.fchmod(fd, 0o700)
        with os.scandir(fd) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    _move_up(fd, entry.name, trash)
                else:
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(entry.name, dir_fd=fd)
    finally:
        os.close(fd)
    try:
        os.rmdir(name, dir_fd=trash)
    except OSError as error:
        # Not empty: the listing missed what another process put here meanwhile; the next round finds it.
        if error.errno not in (errno.ENOENT, errno.ENOTEMPTY):
            raise


def _move_up(source: int, name: str, trash: int) -> None:
    try:
        os.rename(name, secrets.token_hex(8), src_dir_fd=source, dst_dir_fd=trash)
    except FileNotFoundError:
        pass
    except PermissionError:  # moving a directory rewrites its "..", which needs write access to it
        os.chmod(name, 0o700, dir_fd=source)
        os.rename(name, secrets.token_hex(8), src_dir_fd=source, dst_dir_fd=trash)
