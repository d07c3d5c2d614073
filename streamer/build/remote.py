"""What ADD takes from a URL: a file with a name and a hash, fetched into a directory that is gone with the step.

Docker's classic builder fetches it every time. Where the server gives files an ETag, only what changed is fetched
again: the hash of the known version is remembered, and decides whether the file is wanted at all.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TypeAlias

from anyio import CapacityLimiter, current_time, to_thread

from streamer.changeset.making import write_all
from streamer.context.addresses import Policy
from streamer.context.fetch import Fetched, Limits, Unchanged, fetch
from streamer.context.pick import Item
from streamer.context.source import masked
from streamer.context.tree import Hashing, RootTree
from streamer.errors import InvalidRequest, SourceChanged, StorageFull
from streamer.stores.local.catalog import FetchedRow
from streamer.stores.local.store import LocalStore

UNNAMED = b"__unnamed__"
"""What Docker calls a file whose URL tells no name."""
_PACE = 0.5
"""Seconds between two tellings of progress."""
_URLS = ("http://", "https://")
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def is_url(source: str) -> bool:
    """Whether a source is fetched, and not found in the context."""
    return source.lower().startswith(_URLS)


Advance: TypeAlias = Callable[[str, int, int | None], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Fetching:
    """How files are fetched: from which addresses, within which limits."""

    policy: Policy
    limits: Limits = field(default_factory=Limits)
    advance: Advance | None = None
    """Told now and then how many bytes came of how many, and of which URL."""


class Remote:
    """One file of one ADD. `look` before anything else; what is fetched lives as long as the stack."""

    def __init__(
        self,
        url: str,
        local: LocalStore,
        stack: AsyncExitStack,
        how: Fetching,
        hashing: Hashing,
        threads: CapacityLimiter,
    ) -> None:
        self.hash = ""
        """Without a prefix, as history tells it."""
        self.name = b""
        self._url, self._local, self._stack, self._how = url, local, stack, how
        self._hashing, self._threads = hashing, threads
        # Not the URL itself: it may hold a password.
        self._key = hashlib.sha256(f"{hashing.value} {url}".encode("utf-8", "surrogateescape")).hexdigest()
        self._item: Item | None = None

    async def look(self, *, named: bool) -> None:
        """Finds out name and hash, and fetches the file if no known version is still the current one. With `named` it
        must have a name of its own: InvalidRequest. Errors as of `fetch`."""
        known = await self._local.fetched(self._key)
        try:
            await self._fetch(known.etag if known is not None else "")
        except Unchanged:
            assert known is not None
            self.name, self.hash = known.name, known.hash
        if named and self.name == UNNAMED:
            raise InvalidRequest(f"cannot determine a file name from {masked(self._url)!r}: end the destination in one")

    async def item(self) -> Item:
        """The file, fetched by now. SourceChanged if it is not the one that was looked at."""
        if self._item is None:
            expected = self.hash
            await self._fetch()
            if self.hash != expected:
                raise SourceChanged(f"{masked(self._url)!r} changed while it was added")
        assert self._item is not None
        return self._item

    async def _fetch(self, etag: str = "") -> None:
        async with fetch(self._url, self._how.policy, self._how.limits, etag=etag) as found:
            self.name = found.name or UNNAMED
            place = await self._stack.enter_async_context(self._local.scratch())
            root = os.open(place, _DIRECTORY)
            self._stack.callback(os.close, root)
            try:
                file = os.open(self.name, _NEW, 0o600, dir_fd=root)
                try:
                    await self._kept(found, file)
                finally:
                    os.close(file)
            except OSError as error:
                kind = StorageFull if error.errno in (errno.ENOSPC, errno.EDQUOT) else InvalidRequest
                raise kind(f"cannot keep {found.url}: {error.strerror}") from error
        tree = RootTree(root, self._hashing, owner=(0, 0))
        hashed: str | None = await to_thread.run_sync(tree.sum, self.name, limiter=self._threads)
        self.hash = hashed or ""
        self._item = Item(tree, self.name, self.name, is_directory=False, fetched=True)
        # A weak one does not promise the same bytes.
        if found.etag and not found.etag.startswith("W/"):
            await self._local.note_fetched(self._key, FetchedRow(found.etag, self.name, self.hash))

    async def _kept(self, found: Fetched, file: int) -> None:
        told, done = current_time(), 0
        while data := await found.read():
            await to_thread.run_sync(write_all, file, data, limiter=self._threads)
            done += len(data)
            if self._how.advance is not None and current_time() - told >= _PACE:
                told = current_time()
                await self._how.advance(found.url, done, found.size)
        os.utime(file, (found.modified or 0, found.modified or 0))
