"""Opening the directories that layers are, and the root of what was mounted, with errors that name the layer."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator

from streamer.errors import (
    LimitExceeded,
    MountFailed,
    NotPermitted,
    SourceChanged,
    SourceFailed,
    StoreDamaged,
    StreamerError,
)
from streamer.mounts import kernel
from streamer.mounts.mount import Mount
from streamer.mounts.overlay import check_count
from streamer.mounts.ways import ATTRIBUTES

_LAYER = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READABLE = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


@contextlib.contextmanager
def opened_layers(mount: Mount) -> Iterator[list[int]]:
    """O_PATH descriptors of the layers of `mount`, in order, closed at the end of the block.

    SourceChanged for a directory that is not there, StoreDamaged for what is no directory (see `open_layer`),
    NotPermitted, LimitExceeded (open files), MountFailed (too many layers), else SourceFailed.
    """
    check_count(len(mount.layers))
    with contextlib.ExitStack() as stack:
        layers: list[int] = []
        for path in mount.layers:
            layers.append(_opened(path, f"layer {len(layers) + 1} of {len(mount.layers)} (topmost first)"))
            stack.callback(os.close, layers[-1])
        yield layers


def guarded(directory: int) -> int:
    """The directory, which somebody may write to while it is read, without its devices: a file that becomes one between
    look and open is refused by the kernel. Just the same directory where this process may not mount: then it cannot
    open the devices of others either. A descriptor that the caller closes."""
    try:
        return kernel.guarded_clone(directory, ATTRIBUTES)
    except OSError:
        return os.dup(directory)


def readable(directory: int) -> int:
    """A descriptor of the same directory (O_PATH or not) for reading, with an offset of its own; the caller closes."""
    try:
        return os.open(".", _READABLE, dir_fd=directory)
    except OSError as error:
        raise _failure("the root directory", "", error) from error


def empty_directory() -> int:
    """A descriptor of an empty directory without a name: what an image without layers holds. The caller closes it.

    Mode and times are always the same, so that archives of it are, too.
    """
    try:
        path = tempfile.mkdtemp(prefix="streamer-empty-")
        try:
            directory = os.open(path, _READABLE)
        finally:
            os.rmdir(path)
    except OSError as error:
        raise MountFailed(f"an empty file system could not be made: {error.strerror}") from error
    os.fchmod(directory, 0o755)
    os.utime(directory, ns=(0, 0))
    return directory


def _opened(path: bytes, which: str) -> int:
    if not path.startswith(b"/") or b"\0" in path:
        raise StoreDamaged(f"{which} has no absolute path; its store's files are wrong")
    try:
        return open_layer(path)
    except OSError as error:
        # Two components tell which layer it is; the whole path is the host's business and goes to the log only.
        name = os.fsdecode(b"/".join(path.rsplit(b"/", 2)[1:]))
        failure = _failure(which, f" {name!r}", error)
        failure.add_note(f"layer directory: {path!r}")
        raise failure from error


def open_layer(path: bytes) -> int:
    """An O_PATH descriptor of a directory by its absolute path, the caller's to close. OSError.

    Symbolic links are followed nowhere on the way: stores give the paths that their roots really have, and who owns a
    store may not lead us out of it.
    """
    here = os.open(b"/", _LAYER)
    for name in path.split(b"/"):
        if name:
            try:
                below = os.open(name, _LAYER, dir_fd=here)
            finally:
                os.close(here)
            here = below
    return here


def _failure(which: str, name: str, error: OSError) -> StreamerError:
    match error.errno:
        case errno.ENOENT:
            return SourceChanged(f"{which}{name} is gone: its store removed it")
        case errno.ENOTDIR | errno.ELOOP:
            return StoreDamaged(f"{which}{name} is not a directory")
        case errno.EACCES | errno.EPERM:
            return NotPermitted(f"{which}{name} may not be read: this needs its owner or CAP_DAC_READ_SEARCH")
        case errno.EMFILE | errno.ENFILE:
            return LimitExceeded(
                f"{which}{name} cannot be opened: too many files are open; raise the limit (ulimit -n)"
            )
        case _:
            return SourceFailed(f"{which}{name} cannot be opened: {error.strerror}")
