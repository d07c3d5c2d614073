"""The unfinished file of a download: beside its target, locked, with a journal, and renamed once it is whole.

`.NAME.streamer-part` holds bytes at the places where they belong, `.NAME.streamer-part.json` says which of them. The
journal is written after the bytes that it claims are durable, so that what it says is true whatever ended the process,
and whatever ended the machine.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from streamer.client.journal import LONGEST, Journal, decode
from streamer.errors import Conflict, NotPermitted, Unsupported

_SUFFIX = ".streamer-part"
_LONGEST_NAME = 255


class Part:
    """Made by `part`; every method blocks and belongs into a thread. OSErrors carry the path that they are about."""

    def __init__(self, fd: int, directory: int, target: str, name: str) -> None:
        self.fd = fd
        self._directory = directory
        self._target = target
        self._name = name
        self._published = False
        self._failed: OSError | None = None
        """The first failure to write. Kernels tell of one once: to ask again would be answered that all is well."""

    def journal(self) -> Journal | None:
        """What an earlier download left; None if nothing that can be used."""
        try:
            fd = os.open(
                self._name + ".json", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self._directory
            )
        except OSError:
            return None
        with open(fd, "rb") as file:
            if not _ours(os.fstat(fd)):
                return None
            return decode(file.read(LONGEST), os.fstat(self.fd).st_size)

    @property
    def blank(self) -> bool:
        """Whether nothing was ever written."""
        return not os.fstat(self.fd).st_size and _stat(self._name + ".json", self._directory) is None

    @property
    def published(self) -> bool:
        """Whether the target's name is this file's."""
        return self._published

    def write(self, data: memoryview, position: int) -> None:
        with self._about(), self._writing():
            while data:
                written = os.pwrite(self.fd, data, position)
                data, position = data[written:], position + written

    def save(self, journal: Journal) -> None:
        """Makes durable what is written, then says so. The bytes in the journal were written before the call."""
        if self._published:
            return
        with self._about():
            with self._writing():
                os.fdatasync(self.fd)
            fresh = self._name + ".json.new"
            with suppress(FileNotFoundError):
                os.unlink(fresh, dir_fd=self._directory)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            try:
                with open(os.open(fresh, flags, 0o600, dir_fd=self._directory), "wb") as file:
                    file.write(journal.encode())
                os.rename(fresh, self._name + ".json", src_dir_fd=self._directory, dst_dir_fd=self._directory)
            except BaseException:
                self._unlink(fresh)
                raise

    def clear(self) -> None:
        """Forgets everything: from here on another version's bytes are written."""
        with self._about():
            if self.blank:
                return
            self._unlink(self._name + ".json")
            # Before the first of them: after a power cut, the old journal beside new bytes would be a mixture.
            os.fsync(self._directory)
            os.ftruncate(self.fd, 0)

    def publish(self) -> None:
        """Makes the whole file durable and gives it the target's name in one step, in place of what was there."""
        with self._about():
            _as_private(self.fd, _stat(self._target, self._directory))
            with self._writing():
                os.fsync(self.fd)
            os.rename(self._name, self._target, src_dir_fd=self._directory, dst_dir_fd=self._directory)
            self._published = True
            self._unlink(self._name + ".json")
            os.fsync(self._directory)

    def remove(self) -> None:
        """Leaves nothing behind, if the target has not its name yet."""
        if not self._published:
            self._unlink(self._name + ".json")
            self._unlink(self._name)

    def _unlink(self, name: str) -> None:
        with suppress(OSError):
            os.unlink(name, dir_fd=self._directory)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        if self._failed is not None:
            raise OSError(self._failed.errno, self._failed.strerror)
        try:
            yield
        except OSError as error:
            self._failed = error
            raise

    @contextmanager
    def _about(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            error.filename, error.filename2 = self._target, None
            raise


@contextmanager
def part(path: str) -> Iterator[Part]:
    """The unfinished file for `path`, this process's alone while the block is open. It stays unless it is removed.

    Conflict while another download has it; NotPermitted if somebody else made it; OSError.
    """
    folder, target = os.path.split(path)
    with ExitStack() as stack:
        directory = os.open(folder or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, directory)
        name = part_name(target)
        fd = _locked(directory, name, path)
        stack.callback(os.close, fd)
        _as_private(fd, _stat(target, directory))
        yield Part(fd, directory, target, name)


def part_name(target: str) -> str:
    """What the unfinished file of `target` is called, in the same directory."""
    name = f".{target}{_SUFFIX}"
    if len(os.fsencode(name)) + len(".json.new") > _LONGEST_NAME:
        name = f".{hashlib.sha256(os.fsencode(target)).hexdigest()[:32]}{_SUFFIX}"
    return name


def _locked(directory: int, name: str, path: str) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    while True:
        try:
            fd = os.open(name, flags, 0o666, dir_fd=directory)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
                raise _in_the_way(directory, name, path) from None
            error.filename = path
            raise
        with ExitStack() as stack:
            stack.callback(os.close, fd)
            opened = os.fstat(fd)
            if not _ours(opened):
                raise _in_the_way(directory, name, path)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Conflict(f"cannot download to {path}: another command is doing so") from None
            except OSError as error:
                said = os.strerror(error.errno or 0)
                raise Unsupported(
                    f"cannot lock a file beside {path}: {said}; write to standard output instead"
                ) from None
            # The one that held the lock may just have given this file its target's name, or removed it.
            found = _stat(name, directory)
            if found is not None and (found.st_dev, found.st_ino) == (opened.st_dev, opened.st_ino):
                stack.pop_all()
                return fd


def _ours(found: os.stat_result) -> bool:
    """Whether nobody else could have a hand in it: in a directory that all may write to, names can be taken."""
    return stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and found.st_nlink <= 1


def _as_private(fd: int, replaced: os.stat_result | None) -> None:
    """What replaces a private file is as private; never less so than a new one, whoever made what is replaced."""
    if replaced is not None and stat.S_ISREG(replaced.st_mode):
        os.fchmod(fd, os.fstat(fd).st_mode & replaced.st_mode & 0o777)


def _in_the_way(directory: int, name: str, path: str) -> NotPermitted:
    return NotPermitted(f"cannot download to {path}: {name} beside it is not a file of this user's alone; remove it")


def _stat(name: str, directory: int) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None
