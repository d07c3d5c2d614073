"""The work of `streamer build`, `copy` and `add`: the context, the steps as they are done, an image."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from streamer.build import contexts, copying
from streamer.build.building import build
from streamer.build.order import Order
from streamer.build.progress import Line, Say, failed, fetching
from streamer.build.remote import Fetching
from streamer.build.workshop import LocalWorkshop
from streamer.cli.complain import printable, single
from streamer.cli.emit import emit, flush
from streamer.cli.progress import progress
from streamer.cli.source import Input, source, stopping
from streamer.context.fetch import Limits as FetchLimits
from streamer.context.opening import EVERY, Network
from streamer.context.source import Kind, kind
from streamer.context.tree import Hashing
from streamer.errors import InvalidRequest, StreamerError
from streamer.service import policy
from streamer.tar.source import Limits

if TYPE_CHECKING:
    from streamer.build.contexts import Given
    from streamer.service import Service


async def built(service: Service, order: Order, context: str, file: str | None, hashing: Hashing, manner: str) -> str:
    """The ID of the image. `manner` is how steps are told of: `quiet`, `json` (on standard output), or empty for lines
    on standard error. As JSON, a failure is the last one of the lines, beside what is said of it everywhere."""
    say = _say(manner)
    try:
        return await _built(service, order, context, file, hashing, manner, say)
    except (StreamerError, ExceptionGroup) as error:
        failure = error
    found = single(failure)
    if manner == "json" and isinstance(found, StreamerError):
        with suppress(StreamerError, BrokenPipeError):  # it may be standard output itself that failed
            await say(failed(found))
    raise failure


async def _built(
    service: Service, order: Order, context: str, file: str | None, hashing: Hashing, manner: str, say: Say
) -> str:
    limits = Limits(total=service.settings.max_import_bytes)
    local = service.local
    async with _given(service, context, file, hashing, limits) as given:
        with _downloads(say, manner) as advance:
            how = Fetching(policy(service.settings), FetchLimits(size=service.settings.max_import_bytes), advance)
            workshop = LocalWorkshop(local, service.exporter.mounts, given.tree, hashing, limits, how)
            image = await build(
                order, given.dockerfile, given.name, workshop=workshop, look_up=local.image, naming=local, say=say
            )
    return image.id


async def copied(service: Service, order: copying.Order, directory: str) -> copying.Copied:
    """The work of `streamer copy` and `streamer add`, with `directory` as the context."""
    limits = Limits(total=service.settings.max_import_bytes)
    local = service.local
    opened = partial(contexts.of_directory, os.fsencode(directory), b"", Hashing.DOCKER_24)
    with _downloads(_say("quiet"), "") as advance:
        how = Fetching(policy(service.settings), FetchLimits(size=service.settings.max_import_bytes), advance)
        async with contexts.entered(opened) as given:
            workshop = LocalWorkshop(local, service.exporter.mounts, given.tree, Hashing.DOCKER_24, limits, how)
            return await copying.copied(order, workshop=workshop, look_up=local.image, naming=local)


@asynccontextmanager
async def _given(
    service: Service, context: str, file: str | None, hashing: Hashing, limits: Limits
) -> AsyncIterator[Given]:
    what = kind(context, is_directory=await anyio.Path(context).is_dir())
    allowed, size = policy(service.settings), service.settings.max_import_bytes
    if file == "-" and what is not Kind.DIRECTORY:
        raise InvalidRequest(
            "the Dockerfile can come from standard input only if the context is a directory", parameter="file"
        )
    if what is Kind.GIT:
        network = Network(allowed, EVERY, size)
        async with (
            service.local.scratch() as place,
            contexts.of_repository(context, file, place, hashing, network) as given,
        ):
            yield given
        return
    if what is Kind.URL:
        async with (
            service.local.scratch() as place,
            contexts.of_url(context, file, place, limits, allowed, FetchLimits(size=size)) as given,
        ):
            yield given
        return
    if what is Kind.DIRECTORY:
        dockerfile: str | bytes | None = file
        if file == "-":
            with source("-") as opened:
                dockerfile = await _read(_stream(opened))
        async with contexts.entered(partial(contexts.of_directory, os.fsencode(context), dockerfile, hashing)) as given:
            yield given
        return
    with source("-") as opened:
        stream = _stream(opened)
        async with (
            service.local.scratch() as place,
            stopping(stream),
            contexts.entered(partial(contexts.of_source, stream, file, place, limits)) as given,
        ):
            yield given


async def _read(stream: Input) -> bytes:
    async with stopping(stream):
        return await anyio.to_thread.run_sync(contexts.limited, stream)


def _stream(opened: Input | Path) -> Input:
    if isinstance(opened, Path):
        raise InvalidRequest("standard input is a directory: name it as CONTEXT")
    return opened


@contextmanager
def _downloads(say: Say, manner: str) -> Iterator[Callable[[str, int, int | None], Awaitable[None]]]:
    """What is told of files that are fetched: on a terminal a bar for each, which is gone with the block."""
    with ExitStack() as stack:
        shown: list[str] = []
        bars: list[Callable[[int], None]] = []

        async def advance(url: str, done: int, size: int | None) -> None:
            if manner == "json":
                await say(fetching(url, done, size))
            elif not manner:
                if shown[-1:] != [url]:
                    stack.close()
                    shown.append(url)
                    bars.append(stack.enter_context(progress(url, size)))
                bars[-1](done)

        yield advance


def _say(manner: str) -> Say:
    async def say(line: Line) -> None:
        if manner == "json":
            emit(json.dumps(line))
            flush()
        elif not manner and "stream" in line:
            _tell(line["stream"])

    return say


def _tell(text: str) -> None:
    try:
        print("\n".join(printable(part) for part in text.splitlines()), file=sys.stderr, flush=True)
    except OSError:
        pass  # standard error itself is gone: the exit code still tells
