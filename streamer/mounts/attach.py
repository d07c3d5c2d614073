"""Overlays that a person sees: writable, attached to a directory, there until they are unmounted.

Only for `streamer mount` and `streamer unmount`; no export ever attaches anything.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Sequence

from streamer.errors import Conflict, InvalidRequest, MountFailed, NotFound, StreamerError
from streamer.mounts import kernel
from streamer.mounts.mountinfo import number_of, seen, spaces
from streamer.mounts.overlay import check_count, impossible, possible_way, refusal
from streamer.mounts.ways import OPTIONS_MAX, Way

# A visible mount of files that came from elsewhere must not give the machine's users set-id programs or devices.
_ATTRIBUTES = kernel.NOSUID | kernel.NODEV

# Said aloud, because the kernel's module parameters would decide otherwise: what is written through such a mount stays
# a plain changeset that needs neither the lower layers nor a mount to be read.
_PLAIN = (b"index", b"metacopy", b"redirect_dir")


def attach_overlay(
    source: bytes,
    lowers: Sequence[int],
    upper: int,
    work: int,
    target: bytes,
    *,
    userxattr: bool,
    way: Way | None = None,
) -> None:
    """Mount `upper` over `lowers` (topmost first) at the existing directory `target`, an absolute path. `source` is the
    name by which the mount is found again, wherever its directory may have been moved.

    All but the target are descriptors; `work` is an empty directory beside the upper. They may be closed afterwards.
    A symlink as the target's last component is refused. Conflict when something is mounted there already, NotFound
    or InvalidRequest for a target that is no directory, NotPermitted and MountFailed as for `mount_overlay`.
    """
    check_count(len(lowers))
    if not lowers:
        raise MountFailed("a writable overlay needs a layer below it")
    chosen = way or possible_way(userxattr=userxattr)
    if chosen is None:
        raise impossible(userxattr=userxattr)
    with _opened(target) as (parent, leaf):
        if number_of(leaf) != number_of(parent):
            raise Conflict(f"something is mounted at {_shown(target)} already; unmount it first")
        try:
            if chosen is Way.THREAD:
                _attach_by_options(source, lowers, upper, work, leaf, userxattr)
            else:
                _attach_by_context(chosen, source, lowers, upper, work, parent, os.path.basename(target), userxattr)
        except OSError as error:
            raise refusal(f"an overlay could not be mounted at {_shown(target)}", error) from error


def attached() -> dict[bytes, list[bytes]]:
    """Where overlays are mounted as a whole, as this process sees it, by their sources: the oldest first, further ones
    are what somebody has bound elsewhere."""
    found: dict[bytes, list[bytes]] = {}
    for each in seen():
        if each.kind == b"overlay" and each.root == b"/":
            found.setdefault(each.source, []).append(each.point)
    return found


def attached_elsewhere(source: bytes) -> int | None:
    """A process that sees the overlay in another mount namespace, as far as this process can tell."""
    for pid in spaces():
        with contextlib.suppress(OSError):
            if any(each.kind == b"overlay" and each.source == source for each in seen(pid)):
                return int(pid)
    return None


def detach(source: bytes, target: bytes, *, lazy: bool = False) -> None:
    """Unmount the overlay at `target`; `lazy` hides it at once and ends it with its last user.

    NotFound when the topmost that is mounted there is not the overlay of that source (anything else stays), Conflict
    while it is in use, NotPermitted without CAP_SYS_ADMIN.
    """
    with _opened(target) as (parent, leaf):
        if not _overlay_at(source, parent, leaf):
            raise NotFound(f"{_shown(source)} is not what is mounted at {_shown(target)}")
    # The leaf is closed by now: its descriptor alone would make the mount busy.
    parent = _parent(target)
    try:
        kernel.unmount(b"/proc/self/fd/%d/%s" % (parent, os.path.basename(target)), lazy=lazy)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise Conflict(
                f"{_shown(target)} is in use; close what has files open there, then unmount again"
            ) from error
        raise refusal(f"{_shown(target)} could not be unmounted", error) from error
    finally:
        os.close(parent)


def _attach_by_context(
    way: Way, source: bytes, lowers: Sequence[int], upper: int, work: int, parent: int, name: bytes, userxattr: bool
) -> None:
    with kernel.Context(b"overlay") as context:
        context.string(b"source", source)
        for lower in lowers:
            way.add(context, b"lowerdir+", lower)
        way.add(context, b"upperdir", upper)
        way.add(context, b"workdir", work)
        if userxattr:
            context.flag(b"userxattr")
        for key in _plain(userxattr):
            context.string(key, b"off")
        mount = context.mounted(_ATTRIBUTES)
    try:
        kernel.move_mount(mount, parent, name)
    finally:
        os.close(mount)


def _attach_by_options(source: bytes, lowers: Sequence[int], upper: int, work: int, leaf: int, userxattr: bool) -> None:
    names = b":".join(b"/proc/self/fd/%d" % lower for lower in lowers)
    directories = b"lowerdir=%s,upperdir=/proc/self/fd/%d,workdir=/proc/self/fd/%d" % (names, upper, work)
    options = b",".join(
        [directories, *([b"userxattr"] if userxattr else []), *(b"%s=off" % key for key in _plain(userxattr))]
    )
    if len(options) > OPTIONS_MAX:
        raise OSError(errno.E2BIG, f"the names of {len(lowers)} layers are longer than mount(2) reads")
    kernel.mount_overlay(source, b"/proc/self/fd/%d" % leaf, _ATTRIBUTES, options)


def _plain(userxattr: bool) -> tuple[bytes, ...]:
    # With userxattr the kernel itself turns metacopy and redirects off, and refuses to hear of them.
    return (b"index",) if userxattr else _PLAIN


@contextlib.contextmanager
def _opened(target: bytes) -> Iterator[tuple[int, int]]:
    """Descriptors of the target's parent and of the target, both O_PATH, the leaf not followed."""
    parent = _parent(target)
    try:
        leaf = _open(parent, os.path.basename(target), os.O_NOFOLLOW, target)
        try:
            yield parent, leaf
        finally:
            os.close(leaf)
    finally:
        os.close(parent)


def _parent(target: bytes) -> int:
    if not target.startswith(b"/") or os.path.basename(target) in (b"", b".", b".."):
        raise InvalidRequest(f"{_shown(target)} is not the absolute path of a directory below the root")
    return _open(None, os.path.dirname(target), 0, target)


def _open(parent: int | None, path: bytes, flags: int, target: bytes) -> int:
    try:
        return os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC | flags, dir_fd=parent)
    except OSError as error:
        raise _unopened(target, error) from error


def _unopened(target: bytes, error: OSError) -> StreamerError:
    if error.errno == errno.ENOENT:
        return NotFound(f"there is no directory {_shown(target)}")
    return InvalidRequest(f"{_shown(target)} cannot be a mount point: {error.strerror}")


def _overlay_at(source: bytes, parent: int, leaf: int) -> bool:
    mount = number_of(leaf)
    if mount == number_of(parent):
        return False
    return any((each.kind, each.source) == (b"overlay", source) for each in seen() if each.number == mount)


def _shown(target: bytes) -> str:
    return repr(os.fsdecode(target))
