"""Where an export goes: a file that appears only when it is complete, or a pipe. Never a terminal.

A file is written without a name (O_TMPFILE) where the file system can, otherwise under a temporary name beside its own;
`commit` makes it durable and gives it its name in one step. Left without commit, nothing is there.
"""

from __future__ import annotations

import fcntl
import os
import socket
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from functools import partial
from typing import Protocol

import anyio
import anyio.to_thread

from streamer.changeset.making import write_all
from streamer.cli.complain import failed
from streamer.cli.running import last_action
from streamer.errors import Conflict, InvalidRequest, NotPermitted, StreamerError
from streamer.sinks import address, newfile

STANDARD_OUTPUT = 1


class Output(Protocol):
    async def write(self, chunk: bytes) -> None: ...

    async def commit(self) -> None:
        """Everything was written: only now does a file appear."""
        ...


def destination(name: str | None, suggestion: str, *, replace: bool = True) -> AbstractAsyncContextManager[Output]:
    """What `-o NAME` means; None is standard output. `suggestion` is the file name to propose instead of a terminal.

    Conflict for a file that is there and may not be replaced: now, or when it would get its name.
    """
    if name is None or name == "-":
        return _standard_output(suggestion)
    if not replaceable(name, suggestion):
        return _device(name, suggestion)
    found = _stat(name, follow=False)
    if found is not None and not replace:
        raise _exists(name)
    return _file(name, found.st_mode & 0o777 if found is not None else None, replace)


def replaceable(name: str, suggestion: str) -> bool:
    """Whether `-o NAME` means a file that can appear when it is complete, and not something to write into.

    Raises as `destination` does.
    """
    if not name:
        raise InvalidRequest(f"-o is empty: name a file (for example -o {suggestion})", parameter="output")
    if "://" in name:
        address.parse(name)  # says which URIs there are
    if (found := _stat(name, follow=True)) is not None and stat.S_ISDIR(found.st_mode):
        hint = name.rstrip("/") + "/" + suggestion
        raise InvalidRequest(f"{name} is a directory: name the file (for example -o {hint})", parameter="output")
    if found is not None and not stat.S_ISREG(found.st_mode):
        return False  # /dev/null, /dev/stdout or a FIFO: a rename would replace it
    if (link := _stat(name, follow=False)) is not None and stat.S_ISLNK(link.st_mode):
        # Whoever can write to a shared directory could otherwise choose what is replaced; and `-o /dev/stdout > FILE`
        # would replace the link in /dev.
        raise InvalidRequest(f"{name} is a symbolic link: name the file itself", parameter="output")
    if os.path.basename(name) in ("", ".", ".."):
        raise InvalidRequest(f"{name} is not the name of a file", parameter="output")
    return True


def _exists(name: str) -> Conflict:
    return Conflict(f"cannot write {name}: it exists already (see --no-overwrite)")


def refuse_terminal(fd: int, suggestion: str) -> None:
    if os.isatty(fd):
        raise InvalidRequest(
            f"refusing to write an archive to a terminal: name a file (for example -o {suggestion}) or pipe it on",
            parameter="output",
        )


def _stat(name: str, *, follow: bool) -> os.stat_result | None:
    try:
        return os.stat(name, follow_symlinks=follow)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise failed("write", name, error) from error


@asynccontextmanager
async def _standard_output(suggestion: str) -> AsyncIterator[Output]:
    if fcntl.fcntl(STANDARD_OUTPUT, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise InvalidRequest("standard output is closed: name a file with -o FILE", parameter="output")
    refuse_terminal(STANDARD_OUTPUT, suggestion)
    async with _stream(STANDARD_OUTPUT, "standard output") as output:
        yield output


@asynccontextmanager
async def _device(name: str, suggestion: str) -> AsyncIterator[Output]:
    with ExitStack() as stack:
        try:
            # Waits for a FIFO's reader; abandoned, the descriptor dies with the process.
            fd = await anyio.to_thread.run_sync(
                os.open, name, os.O_WRONLY | os.O_NOCTTY | os.O_CLOEXEC, abandon_on_cancel=True
            )
        except OSError as error:
            raise failed("write", name, error) from error
        stack.callback(os.close, fd)
        refuse_terminal(fd, suggestion)
        async with _stream(fd, name) as output:
            yield output


@asynccontextmanager
async def _stream(fd: int, name: str) -> AsyncIterator[Output]:
    """Writes to what is open already: to a pipe or socket, whose reader may be slow, without ever blocking in a system
    call, so that a signal is always heard."""
    mode = os.fstat(fd).st_mode
    with ExitStack() as stack:
        if stat.S_ISFIFO(mode) and (own := _reopened(fd)) is not None:
            stack.callback(os.close, own)
            yield _Ready(own, name, partial(os.write, own))
        elif stat.S_ISSOCK(mode):
            connection = stack.enter_context(socket.socket(fileno=os.dup(fd)))
            yield _Ready(fd, name, lambda data: connection.send(data, socket.MSG_DONTWAIT))
        else:
            yield _Blocking(fd, name)


def _reopened(fd: int) -> int | None:
    """The same pipe through an opening of our own: O_NONBLOCK on the one we were given would reach all who share it."""
    try:
        return os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:  # no /proc, or the pipe belongs to another user: then as it is
        return None


class _Ready:
    """Writes what fits and waits for room on the event loop."""

    def __init__(self, fd: int, name: str, put: Callable[[memoryview], int]) -> None:
        self._fd, self._name, self._put = fd, name, put

    async def write(self, chunk: bytes) -> None:
        rest = memoryview(chunk)
        while rest:
            try:
                rest = rest[self._put(rest) :]
            except BlockingIOError:
                await anyio.wait_writable(self._fd)
            except BrokenPipeError:
                raise
            except OSError as error:
                raise failed("write", self._name, error, StreamerError) from error

    async def commit(self) -> None:
        pass


class _Blocking:
    """Writes in a thread: files and devices, where a write ends by itself."""

    def __init__(self, fd: int, name: str) -> None:
        self._fd, self._name = fd, name

    async def write(self, chunk: bytes) -> None:
        try:
            await anyio.to_thread.run_sync(write_all, self._fd, chunk)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise failed("write", self._name, error, StreamerError) from error

    async def commit(self) -> None:
        pass


class _NewFile(_Blocking):
    def __init__(self, fd: int, name: str, publish: Callable[[], None]) -> None:
        super().__init__(fd, name)
        self._publish = publish

    async def commit(self) -> None:
        try:
            await anyio.to_thread.run_sync(self._publish)
        except FileExistsError:
            raise _exists(self._name) from None
        except OSError as error:
            raise failed("write", self._name, error, StreamerError) from error


@asynccontextmanager
async def _file(path: str, mode: int | None, replace: bool) -> AsyncIterator[Output]:
    folder, name = os.path.split(path)
    with ExitStack() as stack:
        try:
            directory = os.open(folder or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, directory)
            fd, temporary = newfile.unnamed(directory)
            stack.callback(os.close, fd)
        except OSError as error:
            raise failed("write", path, error, NotPermitted) from error
        if temporary is not None:
            remove = partial(newfile.remove, directory, temporary)
            stack.callback(remove)
            stack.enter_context(last_action(remove))
        if mode is not None:
            newfile.tighten(fd, mode)
        yield _NewFile(fd, path, partial(newfile.publish, fd, directory, temporary, name, replace=replace))
