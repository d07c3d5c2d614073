"""Contexts that are somewhere else: fetched, or cloned, for as long as the block is open that gave them."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
from anyio.abc import TaskStatus

from streamer.context import fetch, git, paths
from streamer.context.addresses import Policy
from streamer.context.directory import plan_directory
from streamer.context.plan import Choices, Context
from streamer.context.remote import remote
from streamer.context.scratch import scratch
from streamer.context.source import Kind, kind, masked
from streamer.errors import InvalidRequest, NotFound
from streamer.export.tasks import tasks, threaded
from streamer.tar.source import Limits

EVERY = ("https", "http", "git", "ssh")
WEB = ("https", "http")


@dataclass(frozen=True, slots=True)
class Network:
    """What may be reached, over which of git's transports, and bytes of what comes."""

    policy: Policy
    transports: Sequence[str]
    size: int


@asynccontextmanager
async def opened(source: str, choices: Choices, network: Network, above: Path) -> AsyncIterator[Context]:
    """The context of a git repository or a URL. Clones lie below `above` meanwhile.

    InvalidRequest for what is neither; besides, the errors of `git`, `fetch`, `incoming` and `directory`.
    """
    found = kind(source, is_directory=False)
    if found is Kind.GIT:
        async with cloned(source, network, above) as place:
            yield await threaded(lambda: plan_directory(os.fsencode(place), choices))
    elif found is Kind.URL:
        limits, fetching = Limits(total=network.size), fetch.Limits(size=network.size)
        async with remote(source, choices, policy=network.policy, fetching=fetching, limits=limits) as context:
            yield context
    else:
        raise InvalidRequest(f"{masked(source)!r} is neither a git repository nor a URL", parameter="source")


@asynccontextmanager
async def cloned(source: str, network: Network, above: Path) -> AsyncIterator[Path]:
    """The directory of a git repository that `URL#REF:SUBDIR` names. NotFound if there is none such in it."""
    repository = git.parsed(source)
    async with tasks() as group:
        place = await group.start(_held, above)
        limits = git.Limits(size=network.size)
        async with git.checked_out(repository, place, network.policy, limits, network.transports) as top:
            yield await threaded(lambda: _inside(top, repository.subdirectory))
        group.cancel_scope.cancel()


async def _held(above: Path, *, task_status: TaskStatus[Path]) -> None:
    """A scratch directory until this is cancelled. A task of its own: whoever serves a request may be cancelled twice,
    and the second time it would leave a removal that has only begun."""
    made = scratch(above)
    with anyio.CancelScope(shield=True):
        place = await threaded(made.__enter__)
    try:
        task_status.started(place)
        await anyio.sleep_forever()
    finally:
        with anyio.CancelScope(shield=True):
            await threaded(lambda: made.__exit__(None, None, None))


def _inside(top: Path, subdirectory: str) -> Path:
    root = os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        real = paths.followed(root, paths.cleaned(os.fsencode(subdirectory)))
        status = paths.status(root, real)
    finally:
        os.close(root)
    if status is None:
        raise NotFound(f"there is no directory {subdirectory!r} in the repository")
    place = Path(top, os.fsdecode(real))
    if not place.is_dir():
        raise InvalidRequest(f"{subdirectory!r} in the repository is no directory", parameter="source")
    return place
