"""Where an archive comes from: a file or a pipe as a synchronous source that a signal can interrupt."""

from __future__ import annotations

import fcntl
import os
import select
import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import anyio

from streamer.cli.complain import failed
from streamer.errors import Draining, InvalidRequest, SourceFailed

STANDARD_INPUT = 0


class Input:
    """`read(n)` in a thread, `stop()` from anywhere. `size` is None where only reading can tell."""

    def __init__(self, fd: int, name: str, size: int | None, stopping: tuple[int, int]) -> None:
        self.name = name
        self.size = size
        self._fd = fd
        self._stopped, self._stop = stopping
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)
        self._poll.register(self._stopped, select.POLLIN)

    def read(self, size: int) -> bytes:
        """At most `size` bytes, b"" at the end. Draining once stopped, SourceFailed if reading fails."""
        while True:
            # A pipe may stay silent for ever; waiting in poll, the thread hears `stop`.
            if any(fd == self._stopped for fd, _ in self._poll.poll()):
                raise Draining(f"reading {self.name} was interrupted")
            try:
                return os.read(self._fd, size)
            except BlockingIOError:
                continue
            except OSError as error:
                raise failed("read", self.name, error) from error

    def stop(self) -> None:
        """The next `read`, and one that waits now, raises."""
        os.write(self._stop, b"x")


@contextmanager
def source(name: str) -> Iterator[Input | Path]:
    """What `FILE` or `-` means: an Input open while the block is, or the path of a directory (an OCI layout).

    NotFound, NotPermitted; InvalidRequest for a terminal.
    """
    with ExitStack() as stack:
        if name == "-":
            if fcntl.fcntl(STANDARD_INPUT, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY:
                raise InvalidRequest("standard input is closed: name a FILE")
            if os.isatty(STANDARD_INPUT):
                raise InvalidRequest("standard input is a terminal: name a FILE, or pipe an archive in")
            fd, name = STANDARD_INPUT, "standard input"
        else:
            try:
                # O_NONBLOCK: opening a FIFO must not wait where no signal is heard. It changes nothing for a file.
                fd = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
            except OSError as error:
                raise failed("read", name, error, SourceFailed) from error
            stack.callback(os.close, fd)
        found = os.fstat(fd)
        if stat.S_ISDIR(found.st_mode):
            yield Path(name)
            return
        stopping = os.pipe2(os.O_CLOEXEC)
        for end in stopping:
            stack.callback(os.close, end)
        left = found.st_size - os.lseek(fd, 0, os.SEEK_CUR) if stat.S_ISREG(found.st_mode) else None
        yield Input(fd, name, left, stopping)


@asynccontextmanager
async def stopping(opened: Input | Path) -> AsyncIterator[None]:
    """While the block is open, a cancellation ends reading: a command waits for its thread, and the thread may wait for
    input that never comes. Leaving the block ends it too."""
    async with anyio.create_task_group() as tasks:
        if isinstance(opened, Input):
            tasks.start_soon(_stop_when_cancelled, opened)
        yield
        tasks.cancel_scope.cancel()


async def _stop_when_cancelled(opened: Input) -> None:
    try:
        await anyio.sleep_forever()
    finally:
        opened.stop()
