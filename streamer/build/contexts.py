"""What a build is given: files to copy, and the Dockerfile, in their midst or from elsewhere."""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import (
    AbstractContextManager,
    AsyncExitStack,
    ExitStack,
    asynccontextmanager,
    contextmanager,
    suppress,
)
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import anyio

from streamer.build.script import MAX_SIZE
from streamer.changeset.descriptor import open_in_root
from streamer.changeset.failures import reading_failed
from streamer.changeset.patterns import Patterns
from streamer.context import directory, incoming
from streamer.context.addresses import Policy
from streamer.context.feed import fed
from streamer.context.fetch import Limits as Fetching
from streamer.context.fetch import fetch
from streamer.context.opening import Network, cloned
from streamer.context.plan import DOCKERFILE, IGNORE_FILE
from streamer.context.remote import is_text
from streamer.context.tree import DirectoryTree, Hashing, Tree
from streamer.errors import FILE_REFUSALS, InvalidRequest, LimitExceeded, SourceFailed, shown
from streamer.export.tasks import threaded
from streamer.tar.source import Headed, Limits, Source

T = TypeVar("T")

_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_HEAD = 512


@dataclass(frozen=True, slots=True)
class Given:
    """`tree` is None where there are no files to copy; `name` is what messages call the Dockerfile."""

    tree: Tree | None
    dockerfile: bytes
    name: str


@contextmanager
def of_directory(path: bytes, file: str | bytes | None, hashing: Hashing) -> Iterator[Given]:
    """A local directory without what its `.dockerignore` leaves out. `file` is the Dockerfile's path, in there or not
    (None: the usual one of the context), or its bytes. Blocks, as does what the tree is asked.

    NotFound, NotPermitted, InvalidRequest for what is not there or not what it should be.
    """
    root = directory.opened(path)
    try:
        excluded = Patterns(directory.ignored(root))
        tree = DirectoryTree(root, excluded, hashing=hashing)
        if isinstance(file, bytes):
            yield Given(tree, file, DOCKERFILE.decode())
        elif file is None or (inside := _inside(path, file)) is not None:
            name = None if file is None else inside
            yield Given(tree, *_in_context(root, name))
        else:
            yield Given(tree, _outside(file), file)
    finally:
        os.close(root)


@contextmanager
def of_source(source: Source, file: str | None, place: Path, limits: Limits) -> Iterator[Given]:
    """An archive in any compression, extracted below `place` until the block is left; or a bare Dockerfile, which has
    no context. `file` is the Dockerfile's path in the archive. Blocks; the source stays its owner's.

    InvalidArchive, LimitExceeded, StorageFull; NotFound if the archive has no Dockerfile.
    """
    head = b""
    while len(head) < _HEAD and (part := source.read(_HEAD - len(head))):
        head += part
    whole = Headed(head, source)
    if not incoming.is_archive(head):
        yield Given(None, limited(whole), DOCKERFILE.decode())
        return
    with incoming.taken_in(whole, place, limits=limits) as tree:
        name = None if file is None else os.fsencode(file)
        dockerfile, shown_as = _in_context(tree.root, name)
        _leave_out(tree.root, directory.located(tree.root, name))
        yield Given(tree, dockerfile, shown_as)


@asynccontextmanager
async def of_url(
    url: str, file: str | None, place: Path, limits: Limits, policy: Policy, fetching: Fetching
) -> AsyncIterator[Given]:
    """What is behind a URL: an archive or a bare Dockerfile, as `of_source` has them. Fetched before the block begins.

    Unsupported for another Content-Type; besides, the errors of `fetch` and `of_source`.
    """
    async with AsyncExitStack() as stack:
        async with fetch(url, policy, fetching) as found, fed(found.read) as feed:
            if is_text(found):
                given = Given(None, await threaded(lambda: limited(feed)), DOCKERFILE.decode())
            else:
                opened = entered(lambda: of_source(feed, file, place, limits))
                given = await stack.enter_async_context(opened)
        yield given


@asynccontextmanager
async def of_repository(
    source: str, file: str | None, place: Path, hashing: Hashing, network: Network
) -> AsyncIterator[Given]:
    """A directory of a git repository, `URL#REF:SUBDIR`, cloned below `place`; `file` is the Dockerfile's path in it.

    InvalidRequest for a Dockerfile elsewhere; besides, the errors of `cloned` and `of_directory`.
    """
    async with cloned(source, network, place) as top:
        inside = None if file is None else os.path.join(top, file)
        if inside is not None and _inside(os.fsencode(top), inside) is None:
            raise InvalidRequest(f"the Dockerfile {file!r} lies outside of the repository", parameter="dockerfile")
        async with entered(lambda: of_directory(os.fsencode(top), inside, hashing)) as given:
            yield given


@asynccontextmanager
async def entered(block: Callable[[], AbstractContextManager[T]]) -> AsyncIterator[T]:
    """A block that is entered and left in threads: left on every way out, with the cancellation waiting for that."""
    stack = ExitStack()
    try:
        yield await threaded(lambda: stack.enter_context(block()))
    finally:
        with anyio.CancelScope(shield=True):
            await threaded(stack.close)


def _in_context(root: int, name: bytes | None) -> tuple[bytes, str]:
    real = directory.located(root, name)
    fd = open_in_root(root, real, _READ)
    try:
        return _whole(fd, real), shown(name or real)
    finally:
        os.close(fd)


def _inside(context: bytes, file: str) -> bytes | None:
    """The path of a file from the context that it lies in; None if it lies elsewhere."""
    top, whole = os.path.abspath(os.path.realpath(context)), os.path.abspath(os.fsencode(file))
    # Its directory is looked up as the system would, not the file itself: it may be a link in the context.
    whole = os.path.join(os.path.realpath(os.path.dirname(whole)), os.path.basename(whole))
    below = os.path.relpath(whole, top)
    return None if below == b".." or below.startswith(b"../") else below


def _outside(file: str) -> bytes:
    try:
        fd = os.open(file, _READ)
    except OSError as error:
        kind = FILE_REFUSALS.get(error.errno or 0, SourceFailed)
        raise kind(f"cannot read the Dockerfile {file}: {error.strerror}") from None
    try:
        return _whole(fd, os.fsencode(file))
    finally:
        os.close(fd)


def _whole(fd: int, name: bytes) -> bytes:
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        raise InvalidRequest(f"the Dockerfile {shown(name)} is no regular file")
    try:
        return limited(_File(fd))
    except OSError as error:
        raise reading_failed(name, error) from error


def limited(source: Source) -> bytes:
    """Everything that the source gives, as a Dockerfile. LimitExceeded if that is too long for one."""
    parts, size = [], 0
    while part := source.read(64 << 10):
        parts.append(part)
        size += len(part)
        if size > MAX_SIZE:
            raise LimitExceeded(f"a Dockerfile may have {MAX_SIZE} bytes", limit=MAX_SIZE)
    return b"".join(parts)


def _leave_out(root: int, dockerfile: bytes) -> None:
    """Takes away what a client sends in any case, `.dockerignore` and the Dockerfile, if the former says so."""
    excluded = Patterns(directory.ignored(root))
    for name in (IGNORE_FILE, dockerfile):
        if excluded.matches(os.fsdecode(name)):
            above = open_in_root(root, name.rpartition(b"/")[0], os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                with suppress(FileNotFoundError):
                    os.unlink(name.rpartition(b"/")[2], dir_fd=above)
            finally:
                os.close(above)


class _File:
    def __init__(self, fd: int) -> None:
        self._fd = fd

    def read(self, size: int, /) -> bytes:
        return os.read(self._fd, size)
