"""Where images of steps are made: the embedded store, the context, and the file systems of other images."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import anyio
from anyio import CapacityLimiter, to_thread

from streamer.build import changes, directories, placing
from streamer.build.instruction import Add, Copy
from streamer.build.placing import Manner
from streamer.build.remote import Fetching, Remote, is_url
from streamer.build.steps import Step
from streamer.context.image import opened
from streamer.context.pick import Item, Picks, matches, require
from streamer.context.recorded import Known
from streamer.context.source import masked
from streamer.context.tree import Hashing, RootTree, Tree
from streamer.errors import InvalidRequest, NotPermitted
from streamer.export.closing import closing
from streamer.export.commit import ChunkSource
from streamer.mounts.table import MountTable
from streamer.oci import digest as digests
from streamer.stores.base import Image
from streamer.stores.local.store import LocalStore
from streamer.tar.source import Limits

T = TypeVar("T")

_THREADS = 4
"""Look-ups of files of one build that go on at once."""
_NOWHERE = RootTree(-1)
"""Where a file is that was not fetched yet."""


@dataclass(slots=True)
class LocalWorkshop:
    """The workshop of one build. `context` is None where there is none: then only `--from` has files."""

    local: LocalStore
    mounts: MountTable
    context: Tree | None
    hashing: Hashing
    limits: Limits = field(default_factory=Limits)
    """Of an archive that ADD unpacks."""
    fetching: Fetching | None = None
    """How ADD fetches URLs; None where it may not."""
    known: Known = field(default_factory=Known)
    """Of the layers that steps have looked into."""
    _threads: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(_THREADS))

    @asynccontextmanager
    async def files(
        self, instruction: Copy | Add, origin: Image | None, parent: Image | None, working_directory: str
    ) -> AsyncIterator[_Files]:
        """See `Workshop`. The file system of an image is leased while the block is open."""
        name = "COPY" if isinstance(instruction, Copy) else "ADD"
        async with self._tree(origin) as tree, AsyncExitStack() as stack:
            picks, remotes = await self._picked(instruction, tree, stack)
            if len(picks.items) > 1 and not instruction.destination.endswith("/"):
                raise InvalidRequest(
                    f"{name} with more than one source needs a destination that is a directory and ends in a slash, "
                    f"not {instruction.destination[:200]!r}"
                )
            place = destination(working_directory, instruction.destination)
            manner = Manner(
                place,
                chown=instruction.chown,
                mode=_mode(instruction.chmod) if instruction.chmod else None,
                keep=origin is not None,
                unpack=isinstance(instruction, Add),
                limits=self.limits,
            )
            yield _Files(self, picks, manner, remotes)

    async def _picked(
        self, instruction: Copy | Add, tree: Tree | None, stack: AsyncExitStack
    ) -> tuple[Picks, dict[int, Remote]]:
        """What is taken, and by its number what comes from a URL and may not be there yet."""
        picks, remotes = Picks(), {}
        named = instruction.destination.endswith("/")
        for source in instruction.sources:
            if not is_url(source):
                if tree is None:
                    raise InvalidRequest("there is no build context to copy from")
                picks += await self._threaded(partial(matches, tree, os.fsencode(source)))
                continue
            if isinstance(instruction, Copy):
                raise InvalidRequest(f"COPY cannot take a URL, but ADD can: {masked(source)!r}")
            if self.fetching is None:
                raise NotPermitted("ADD cannot fetch a URL here: the setting fetch allows it")
            remote = Remote(source, self.local, stack, self.fetching, self.hashing, self._threads)
            await remote.look(named=named)
            remotes[len(picks.items)] = remote
            picks += Picks((Item(_NOWHERE, b"", remote.name, False, fetched=True),), (remote.hash,), ("",))
        require(picks, [os.fsencode(each) for each in instruction.sources])
        return picks, remotes

    async def mountable(self, image: Image | None, paths: Sequence[str]) -> None:
        """See `Workshop`."""
        await self._threaded(partial(placing.directories, self.mounts, image, paths, self.known))

    async def cached(self, key: str) -> Image | None:
        """See `Workshop`."""
        return await self.local.cached(key)

    async def make(self, step: Step, directory: str = "") -> Image:
        """See `Workshop`."""
        if not directory:
            return await self.extended(step, None)
        return await self.extended(
            step, directories.layer(self.mounts, step.parent, os.fsencode(changes.cleaned(directory)), self.known)
        )

    async def keep(self, image: Image) -> str:
        """See `Workshop`."""
        return (await self.local.create(image.id)).id

    def chown(self, chown: str) -> str:
        """See `Workshop`. Docker up to 23 wrote no blank behind it."""
        return f"--chown={chown}" + (" " if self.hashing is not Hashing.DOCKER_23 else "")

    async def extended(self, step: Step, chunks: Iterator[bytes] | None) -> Image:
        """The image of a step, with the tar of these chunks as its layer. Closes them."""
        extend = partial(
            self.local.extend,
            step.parent.id if step.parent is not None else None,
            runtime=step.runtime.document(),
            created_by=step.created_by,
            author=step.author,
            key=step.key,
        )
        if chunks is None:
            return await extend(source=None)
        # Cancelled by an anyio scope, the store stops at its next read and its thread is waited for; until then the
        # generator is its.
        with closing(chunks):
            image = await extend(source=ChunkSource(chunks))
        return image  # noqa: RET504  # mypy cannot tell that `closing` does not swallow exceptions

    @asynccontextmanager
    async def _tree(self, origin: Image | None) -> AsyncIterator[Tree | None]:
        if origin is None:
            yield self.context
            return
        stack = ExitStack()
        try:
            opening = partial(stack.enter_context, opened(self.mounts, origin, hashing=self.hashing, known=self.known))
            tree: Tree | None = await self._threaded(opening)
            if tree is None:
                raise InvalidRequest(f"image {digests.short(origin.id)} has no files to copy")
            yield tree
        finally:
            with anyio.CancelScope(shield=True):
                await self._threaded(stack.close)

    async def _threaded(self, work: Callable[[], T]) -> T:
        return await to_thread.run_sync(work, limiter=self._threads)


@dataclass(frozen=True, slots=True)
class _Files:
    """What one COPY or ADD takes; valid while the block is open that gave it."""

    workshop: LocalWorkshop
    picks: Picks
    manner: Manner
    remotes: Mapping[int, Remote]

    @property
    def hash(self) -> str:
        return self.picks.hash

    @property
    def others(self) -> str:
        # The hash of what is found through a link does not tell the link's own name, by which it may be called.
        names = [item.name for item in self.picks.items]
        # Nor does history tell whether files keep their owners.
        return repr((names, self.picks.exact, self.manner.keep))

    async def make(self, step: Step) -> Image:
        items = list(self.picks.items)
        for number, remote in self.remotes.items():
            items[number] = await remote.item()
        return await self.workshop.extended(
            step, placing.layer(self.workshop.mounts, step.parent, tuple(items), self.manner, self.workshop.known)
        )


def destination(working_directory: str, path: str) -> bytes:
    """The absolute path that a destination means, with its slash at the end."""
    absolute = path if path.startswith("/") else f"/{working_directory}/{path}"
    return os.fsencode(changes.cleaned(absolute).rstrip("/") + "/" * path.endswith("/") or "/")


def _mode(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5) or any(digit > "7" for digit in text):
        raise InvalidRequest(f"--chmod={text[:100]} is not an octal mode (for example 0755)")
    return int(text, 8) & 0o7777
