"""Read-only overlays that are attached nowhere, with the kernel's refusals turned into streamer's errors."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

from streamer.errors import LimitExceeded, MountFailed, NotPermitted, SourceChanged, StreamerError
from streamer.mounts.features import probe
from streamer.mounts.ways import Way

LAYERS_MAX = 500
"""As many as the kernel stacks (OVL_MAX_STACK)."""

NEEDED = "CAP_SYS_ADMIN (to read files of any owner also CAP_DAC_READ_SEARCH)"


def mount_overlay(layers: Sequence[int], *, userxattr: bool, way: Way | None = None) -> int:
    """Mount `layers` (descriptors of at least two directories, topmost first, O_PATH will do) over one another.

    Out comes an O_PATH descriptor of a detached mount: read-only, no set-id, no devices, no execution, seen by nobody,
    gone when its last descriptor is closed, which is the caller's part. The layers' descriptors may be closed at once.
    `userxattr` says that the marks are `user.overlay.*`; else metacopy and redirects are followed. `way` forces one.

    NotPermitted without CAP_SYS_ADMIN; SourceChanged when a layer was removed meanwhile; MountFailed otherwise.
    """
    check_count(len(layers))
    if len(layers) < 2:
        raise MountFailed("an overlay needs at least two layers; a single one is read as the directory that it is")
    chosen = way or possible_way(userxattr=userxattr)
    if chosen is None:
        raise impossible(userxattr=userxattr)
    try:
        mount = chosen.mount(layers, userxattr=userxattr)
    except OSError as error:
        raise refusal(f"an overlay of {len(layers)} layers could not be mounted", error) from error
    # The kernel mounts a removed directory as an empty layer. After the mount, so that one removed in between is seen.
    if any(os.fstat(layer).st_nlink == 0 for layer in layers):
        os.close(mount)
        raise SourceChanged("a layer was removed from its store while it was being mounted; try again")
    return mount


def possible_way(*, userxattr: bool) -> Way | None:
    """The way that `mount_overlay` would take, None when overlays are not possible for this process."""
    return probe().way(userxattr=userxattr)


def check_count(layers: int) -> None:
    """MountFailed when these are more layers than the kernel stacks."""
    if layers > LAYERS_MAX:
        raise MountFailed(f"{layers} layers cannot be mounted over one another: the kernel's limit is {LAYERS_MAX}")


def impossible(*, userxattr: bool) -> StreamerError:
    """The error for a process that no way works for: NotPermitted if a privilege is what lacks."""
    refusals = probe().refusals(userxattr=userxattr)
    privilege = next((one for one in refusals if one.errno in (errno.EPERM, errno.EACCES)), None)
    return refusal("overlays cannot be mounted by this process", privilege or refusals[0])


def refusal(what: str, error: OSError) -> StreamerError:
    """`error` of a mount call as an error of ours; `what` is the sentence's beginning, without a full stop."""
    words = error.strerror or ""
    failed: StreamerError
    match error.errno:
        case errno.EPERM | errno.EACCES:
            failed = NotPermitted(f"{what}: this needs {NEEDED}")
        case errno.EMFILE | errno.ENFILE:
            failed = LimitExceeded(f"{what}: too many files are open; raise the limit (ulimit -n)")
        case errno.ELOOP:
            failed = MountFailed(f"{what}: the same directory occurs twice among them, or one lies inside another")
        case errno.ESTALE | errno.ENOENT:
            failed = SourceChanged(f"{what}: a layer was removed from its store meanwhile; try again")
        case errno.ENOSYS | errno.ENODEV:
            failed = MountFailed(
                f"{what}: this kernel has no overlay file system, or not the calls to mount it detached"
            )
        case _ if "/" in words:
            failed = MountFailed(f"{what}; the kernel's reason is in the log")  # it names a path of the host
        case _:
            failed = MountFailed(f"{what}: {words}")
    failed.add_note(f"kernel: {words} ({errno.errorcode.get(error.errno or 0, error.errno)})")
    return failed
