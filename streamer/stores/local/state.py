"""The directory of an embedded store: what lies where, and the two kinds of locks that several processes share.

    streamer.db                  metadata (`schema.py`)
    lock                         flock: held for the short moments in which directories and rows change together
    layers/<hex of chain ID>/    diff/ (an overlay layer), tar-split.json.gz, places.json, kept/
    containers/<id>/             upper/, work/, merged/, empty/ (doomed/ while it is being removed)
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
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from streamer.changeset.marks import trusted_visible
from streamer.errors import Conflict, InvalidRequest, LimitExceeded, NotPermitted, StorageFull, StoreDamaged
from streamer.mounts.mountinfo import number_of
from streamer.oci import digest as digests
from streamer.stores.local import trash

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

FOLDERS = ("layers", "containers", "staging", "trash")

_NAME = re.compile(r"[0-9a-f]{12,128}")
_EMPTY, _DOOMED = "empty", "doomed"


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
            _give(fd, self.fd)
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

    @contextlib.contextmanager
    def doomed(self, identity: str) -> Iterator[None]:
        """Says of a container that it is to be removed, unless the block fails: killed before its directory is gone,
        the next start goes on. By another name of what is there: on a full disk nothing could be made."""
        self._renamed(identity, _EMPTY, _DOOMED)
        try:
            yield
        except BaseException:
            self._renamed(identity, _DOOMED, _EMPTY)
            raise

    def spare(self, identity: str) -> None:
        """Takes that back of a container that has its row: who was to remove it was killed before he had."""
        self._renamed(identity, _DOOMED, _EMPTY)

    def _renamed(self, identity: str, old: str, new: str) -> None:
        folder, name = self.folders["containers"], _named(identity)
        with storage("the container"), contextlib.suppress(FileNotFoundError):
            os.rename(f"{name}/{old}", f"{name}/{new}", src_dir_fd=folder, dst_dir_fd=folder)

    def forsaken(self, identity: str) -> bool:
        """Whether nothing of a person's is in a container: it was never used, or is to be removed."""
        path = self.container(identity)
        if os.path.lexists(path + b"/" + _DOOMED.encode()):
            return True
        try:
            return not os.listdir(path + b"/upper")
        except FileNotFoundError:
            return True

    def mark(self, trusted: bool) -> bool:
        """Puts an attribute of the kind that tells what was deleted on `layers/`; whether that could be done."""
        try:
            os.setxattr(self.folders["layers"], _mark(trusted), b"y")
        except OSError:
            return False  # another user's, or a file system without such attributes
        return True

    def require_mark(self, trusted: bool) -> None:
        """StoreDamaged where the mark is gone: with it went what the layers say of what they delete, and that would be
        back in what is exported. Where this process does not see such attributes nothing can be told."""
        if trusted and not trusted_visible():
            return
        try:
            os.getxattr(self.folders["layers"], _mark(trusted))
        except OSError as error:
            if error.errno in (errno.ENODATA, errno.ENOTSUP):
                raise StoreDamaged(
                    f"the store {self.path} was copied without extended attributes, and what its layers delete is lost "
                    "with them: copy it again, with all of them (cp -a, rsync -aHAX, tar --xattrs --xattrs-include='*')"
                ) from None
            raise

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
    """The store directory, made (0700) where it is missing. NotPermitted, StorageFull; InvalidRequest for what is no
    directory; Conflict for one that is somebody else's: nothing in it may ever be taken for a layer without a row."""
    path = Path(os.path.realpath(path))  # leases of layers follow no links
    with contextlib.ExitStack() as stack, storage(f"the store directory {path}"):
        try:
            os.makedirs(path, mode=0o700, exist_ok=True)
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except (FileExistsError, NotADirectoryError):
            raise InvalidRequest(f"there can be no store at {path}: it is no directory", parameter="state") from None
        stack.callback(os.close, fd)
        if not os.access("streamer.db", os.F_OK, dir_fd=fd, follow_symlinks=False):
            _require_new(path, fd)
        folders = {}
        for name in FOLDERS:
            made = False
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=fd)
                made = True
            folders[name] = os.open(name, DIRECTORY, dir_fd=fd)
            stack.callback(os.close, folders[name])
            if made:
                _give(folders[name], fd)
            if number_of(folders[name]) != number_of(fd):
                raise Conflict(f"{path / name} is on another file system than {path}: a store has to be on one")
        yield State(path, fd, folders)


def _give(made: int, directory: int) -> None:
    """What root makes in somebody's store is its owner's, who could not use the store otherwise; where root may give
    things away at all."""
    owner = os.fstat(directory)
    if os.geteuid() == 0 and os.fstat(made).st_uid != owner.st_uid:
        with contextlib.suppress(PermissionError):
            os.fchown(made, owner.st_uid, owner.st_gid)


def _require_new(path: Path, fd: int) -> None:
    """Conflict if one of the names is taken in a directory without a database, unless by what a first start leaves that
    was killed: directories that are empty and could be ours."""
    for name in FOLDERS:
        try:
            inside = os.open(name, DIRECTORY, dir_fd=fd)
        except FileNotFoundError:
            continue
        except NotADirectoryError:
            raise _no_store(path, name) from None
        try:
            if stat.S_IMODE(os.fstat(inside).st_mode) != 0o700 or os.listdir(inside):
                raise _no_store(path, name)
        finally:
            os.close(inside)


def _no_store(path: Path, name: str) -> Conflict:
    return Conflict(
        f"{path} is no store of streamer (its streamer.db is missing, empty or another one), and its {name}/ was not "
        "made by it: name a directory that is empty, or not there yet; or bring the streamer.db of this store back"
    )


def _mark(trusted: bool) -> str:
    return "trusted.streamer.store" if trusted else "user.streamer.store"


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
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:  # a link
            return None
        raise
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
