"""The directory of an embedded store: what lies where, and the two kinds of locks that several processes share.

    streamer.db                  metadata (`schema.py`)
    lock                         flock: held for the short moments in which directories and rows change together
    layers/<hex of chain ID>/    diff/ (an overlay layer), tar-split.json.gz, places.json, kept/
    containers/<id>/             upper/, work/, merged/; doomed while it is being removed
    staging/<random>/            what an import or commit in progress writes; flock held by the process that does
    trash/                       what no row names any more, on its way out

The flock of a layer's directory, shared, keeps the layer from being collected while something is built on top of it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from streamer.errors import Conflict, LimitExceeded, NotPermitted, StorageFull, StoreDamaged
from streamer.oci import digest as digests
from streamer.stores.local import trash

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

FOLDERS = ("layers", "containers", "staging", "trash")

_NAME = re.compile(r"[0-9a-f]{12,128}")
_DOOMED = "doomed"


@dataclass(frozen=True, slots=True)
class State:
    """An open store directory. `fd` and `folders` are its descriptors, closed by `opened`."""

    path: Path
    fd: int
    folders: dict[str, int]

    @property
    def database(self) -> Path:
        return self.path / "streamer.db"

    def layer(self, chain_id: str) -> bytes:
        """The absolute path of a layer's directory."""
        return os.fsencode(self.path) + b"/layers/" + _named(digests.encoded(chain_id)).encode()

    def container(self, identity: str) -> bytes:
        return os.fsencode(self.path) + b"/containers/" + _named(identity).encode()

    def lock(self) -> int | None:
        """The store's lock, given back by closing the descriptor; None while somebody else holds it. Never waits. Each
        call opens the file anew, so tasks and processes exclude each other alike."""
        with storage("the store"):
            fd = os.open("lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=self.fd)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        except BaseException:
            os.close(fd)
            raise
        return fd

    def hold_layer(self, chain_id: str) -> int | None:
        """A descriptor of the layer's directory whose shared lock keeps it from being collected; None if it is gone."""
        return held(self.folders["layers"], _named(digests.encoded(chain_id)), fcntl.LOCK_SH)

    def has_layer(self, chain_id: str) -> bool:
        """Whether the layer's directory is there; to be believed under the store's lock only."""
        try:
            os.stat(digests.encoded(chain_id), dir_fd=self.folders["layers"], follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def doom(self, identity: str) -> None:
        """Says of a container that it is to be removed: killed before its directory is gone, the next start goes on."""
        path = f"{_named(identity)}/{_DOOMED}"
        with storage("the container"), contextlib.suppress(FileNotFoundError):
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600, dir_fd=self.folders["containers"]))

    def forsaken(self, identity: str) -> bool:
        """Whether nothing of a person's is in a container: it was never used, or is to be removed."""
        path = self.container(identity)
        if os.path.lexists(path + b"/" + _DOOMED.encode()):
            return True
        try:
            return not os.listdir(path + b"/upper")
        except FileNotFoundError:
            return True

    def require_empty(self) -> None:
        """Conflict if there is anything in the directories: where no row was ever written that is somebody else's, or
        what is left of a store whose database is lost. Nothing of it may ever be taken for what no row names."""
        for name, folder in self.folders.items():
            if os.listdir(folder):
                raise _no_store(self.path, name)

    def discard(self, folder: str, name: str) -> None:
        """Moves a directory into the trash (durably, at once invisible); `trash.empty` deletes it. Missing is fine."""
        with contextlib.suppress(FileNotFoundError):
            os.rename(
                _named(name), secrets.token_hex(8), src_dir_fd=self.folders[folder], dst_dir_fd=self.folders["trash"]
            )

    def empty_trash(self) -> None:
        """Deletes what was discarded. What cannot be deleted now is out of sight already and tried again at the next
        start; it is no failure of the removal, and must not hide the error that brought us here."""
        with contextlib.suppress(OSError):
            trash.empty(self.folders["trash"])


@contextlib.contextmanager
def opened(path: Path) -> Iterator[State]:
    """The store directory, made (0700) where it is missing. NotPermitted, StorageFull; Conflict for a directory that is
    somebody else's, nothing of which may ever be taken for a layer without a row."""
    path = Path(os.path.realpath(path))  # leases of layers follow no links
    with contextlib.ExitStack() as stack, storage(f"the store directory {path}"):
        os.makedirs(path, mode=0o700, exist_ok=True)
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, fd)
        new = not os.access("streamer.db", os.F_OK, dir_fd=fd, follow_symlinks=False)
        there = [name for name in FOLDERS if os.access(name, os.F_OK, dir_fd=fd, follow_symlinks=False)]
        folders = {}
        for name in (*there, *(each for each in FOLDERS if each not in there)):
            if name not in there:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, 0o700, dir_fd=fd)
            folders[name] = os.open(name, DIRECTORY, dir_fd=fd)
            stack.callback(os.close, folders[name])
            if new and os.listdir(folders[name]):
                raise _no_store(path, name)
            if os.fstat(folders[name]).st_dev != os.fstat(fd).st_dev:
                raise Conflict(f"{path / name} is on another file system than {path}: a store has to be on one")
        yield State(path, fd, folders)


def _no_store(path: Path, name: str) -> Conflict:
    return Conflict(
        f"{path} is no store of streamer (its streamer.db is missing, empty or another one), and its {name}/ is not "
        "empty: name a directory that is empty, or not there yet; or bring the streamer.db of this store back"
    )


def is_ours(name: str) -> bool:
    """Whether a directory of that name may be one that a store made."""
    return _NAME.fullmatch(name) is not None


def _named(name: str) -> str:
    """A directory's name, which a row may tell. StoreDamaged for what no store of ours ever wrote: it could lead
    anywhere."""
    if not is_ours(name):
        raise StoreDamaged(f"the store names a directory {name[:200]!r}, which is none of its own")
    return name


def held(folder: int, name: str, operation: int) -> int | None:
    """A locked descriptor of a directory, None if it is missing or (with LOCK_NB) locked by somebody else.

    The name is looked up again under the lock: a directory that was moved away while we waited does not count.
    """
    try:
        fd = os.open(name, DIRECTORY, dir_fd=folder)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, operation)
        there, here = os.stat(name, dir_fd=folder, follow_symlinks=False), os.fstat(fd)
        if (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino):
            return fd
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return None


@contextlib.contextmanager
def storage(what: str) -> Iterator[None]:
    """Turns the operating system's refusals to store something into errors of ours that name `what`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull(f"no space is left in the store for {what}") from error
        if error.errno in (errno.EPERM, errno.EACCES, errno.EROFS):
            raise NotPermitted(f"{what} cannot be written ({os.strerror(error.errno)})") from error
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise LimitExceeded(f"too many open files for {what}: raise the limit (ulimit -n)") from error
        raise StoreDamaged(f"{what} could not be stored: {os.strerror(error.errno or 0)}") from error
