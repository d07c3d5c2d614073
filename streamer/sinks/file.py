"""A file that appears when it is complete, also below directories that somebody else can write to."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread

from streamer.changeset import descriptor
from streamer.changeset.making import write_all
from streamer.errors import (
    FILE_REFUSALS,
    InvalidRequest,
    NotPermitted,
    StorageFailed,
    StreamerError,
)
from streamer.sinks import newfile
from streamer.sinks.base import Begun, Exists, Layout, Record, Target, Upload

_KINDS: dict[int, type[StreamerError]] = {**FILE_REFUSALS, errno.ELOOP: NotPermitted, errno.EXDEV: NotPermitted}

_SPECIAL = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
)


class Files:
    """Files by their absolute paths. With `below`, only those below one of these directories, and through no link."""

    layout = Layout()
    ordered = True

    def __init__(self, below: Sequence[Path] | None = None) -> None:
        self._below = below

    def open(
        self, target: Target, record: Record, *, step: int, concurrency: int, begun: Begun | None = None
    ) -> AbstractAsyncContextManager[Upload]:
        return self._opened(target, record)

    @asynccontextmanager
    async def _opened(self, target: Target, record: Record) -> AsyncIterator[Upload]:
        name, passing = os.path.basename(target.address.key), newfile.passing(target.token)
        with ExitStack() as stack:
            try:
                directory = await anyio.to_thread.run_sync(self._directory, target)
                stack.callback(os.close, directory)
                await record.begun(passing)
                fd, temporary = newfile.unnamed(directory, passing)
                stack.callback(os.close, fd)
            except OSError as error:
                raise _failed(target, error) from error
            if temporary is not None:
                stack.callback(newfile.remove, directory, temporary)
            try:
                replaced = os.stat(name, dir_fd=directory, follow_symlinks=False)
                _refuse_special(target, replaced.st_mode)
                if stat.S_ISREG(replaced.st_mode):
                    newfile.tighten(fd, replaced.st_mode)
            except FileNotFoundError:
                pass
            except OSError as error:
                raise _failed(target, error) from error
            yield _File(target, record, fd, partial(newfile.publish, fd, directory, temporary, name, between=passing))

    async def refuse_existing(self, target: Target) -> None:
        try:
            directory = await anyio.to_thread.run_sync(self._directory, target)
        except OSError as error:
            raise _failed(target, error) from error
        try:
            found = os.stat(os.path.basename(target.address.key), dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return
        except OSError as error:
            raise _failed(target, error) from error
        finally:
            os.close(directory)
        _refuse_special(target, found.st_mode)
        if not target.replace:
            raise _exists(target)

    async def found(self, target: Target, size: int, digest: str) -> str | None:
        """A file says nothing of its export: it is read."""
        try:
            same = await anyio.to_thread.run_sync(self._is, target, size, digest)
        except OSError:
            return None
        return "" if same else None

    async def sweep(
        self, target: Target, *, upload: str | None = None, since: float | None = None, keep: Collection[str] = ()
    ) -> None:
        """What had no name is gone with its process. What had a passing one, for an instant or because the file system
        wants names, is removed."""
        try:
            await anyio.to_thread.run_sync(self._remove, target)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise _failed(target, error) from error

    def _remove(self, target: Target) -> None:
        directory = self._directory(target)
        try:
            os.unlink(newfile.passing(target.token), dir_fd=directory)
        finally:
            os.close(directory)

    def _is(self, target: Target, size: int, digest: str) -> bool:
        directory = self._directory(target)
        try:
            name = os.path.basename(target.address.key)
            with open(os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory), "rb") as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode) or status.st_size != size:
                    return False
                return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}" == digest
        finally:
            os.close(directory)

    def _directory(self, target: Target) -> int:
        """The open directory of a file. NotPermitted if it lies below none of those allowed; OSError."""
        folder = os.path.dirname(target.address.key)
        if self._below is None:
            return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        for root in self._below:
            if os.path.commonpath([folder, root]) == str(root):
                fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    relative = os.path.relpath(folder, root)
                    return descriptor.open_below(
                        fd, b"" if relative == "." else os.fsencode(relative), descriptor.DIRECTORY
                    )
                finally:
                    os.close(fd)
        raise NotPermitted(
            f"cannot write {target.address}: files may be written only below the directories that the setting "
            "export_directories names"
        )


class _File:
    def __init__(self, target: Target, record: Record, fd: int, publish: partial[None]) -> None:
        self._target, self._record, self._fd, self._publish = target, record, fd, publish
        self._writing = anyio.CapacityLimiter(1)
        """A thread of its own: look-ups that hang must not hold it up."""

    async def put(self, number: int, data: memoryview, *, last: bool) -> None:
        try:
            await anyio.to_thread.run_sync(write_all, self._fd, data, limiter=self._writing)
        except OSError as error:
            raise _failed(self._target, error) from error

    async def complete(self, size: int, digest: str) -> str:
        try:
            await anyio.to_thread.run_sync(partial(self._publish, replace=self._target.replace), limiter=self._writing)
        except FileExistsError:
            raise _exists(self._target) from None
        except OSError as error:
            raise _failed(self._target, error) from error
        await self._record.ended()
        return ""


def _refuse_special(target: Target, mode: int) -> None:
    """InvalidRequest for what no file may take the place of: everything but a file and a symbolic link."""
    if stat.S_ISREG(mode) or stat.S_ISLNK(mode):
        return
    kind = next((name for is_one, name in _SPECIAL if is_one(mode)), "no file")
    raise InvalidRequest(f"cannot write {target.address}: it is {kind}; name a file", parameter="destination")


def _exists(target: Target) -> Exists:
    return Exists(f"cannot write {target.address}: it exists already, and may not be replaced")


def _failed(target: Target, error: OSError) -> StreamerError:
    kind = _KINDS.get(error.errno or 0, StorageFailed)
    return kind(f"cannot write {target.address}: {error.strerror or error}")
