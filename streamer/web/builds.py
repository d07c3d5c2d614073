"""`POST /v1/builds`: a context comes in, an image is built, and each step is told of as it is done."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, TypeVar

import anyio
from aiohttp import hdrs, web

from streamer.build import contexts
from streamer.build.builder import Options
from streamer.build.building import build
from streamer.build.contexts import Given
from streamer.build.order import Order, names
from streamer.build.progress import Line, Say, failed, fetching
from streamer.context.fetch import Limits as FetchLimits
from streamer.context.opening import WEB, Network
from streamer.context.source import Kind, kind, masked
from streamer.context.tree import Hashing
from streamer.errors import ConsumerGone, InvalidRequest, NotPermitted, StreamerError
from streamer.export.background import Background
from streamer.export.tasks import tasks
from streamer.tar.source import Limits
from streamer.web.site import SITE, Site
from streamer.web.slots import Slot
from streamer.web.uploads import Body
from streamer.web.workplace import workplace

T = TypeVar("T")

_AHEAD = 100
"""Lines that a build may be ahead of its client."""


class _Telling:
    """A build that runs in the service's own task group, and the lines that it says."""

    def __init__(self) -> None:
        self._mouth, self._ear = anyio.create_memory_object_stream[Line](_AHEAD)
        self.error: Exception | None = None

    async def say(self, line: Line) -> None:
        try:
            await self._mouth.send(line)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            raise ConsumerGone("nobody listens to this build any more") from None

    async def run(self, background: Background, work: Callable[[Say], Awaitable[object]]) -> None:
        """Runs the work to its end; then `hear` has nothing more to give."""
        try:
            await background.run(lambda: work(self.say))
        except Exception as error:
            self.error = error
        finally:
            self._mouth.close()

    async def hear(self) -> Line | None:
        """The next line, None after the last one."""
        try:
            return await self._ear.receive()
        except anyio.EndOfStream:
            return None

    def leave(self) -> None:
        """The build ends at the next thing it says."""
        self._ear.close()


async def post(request: web.Request, values: dict[str, Any]) -> web.StreamResponse:
    site, order = request.app[SITE], _order(values)
    place = workplace(request, values, order.names, "build")
    source = Body(request, site.upload_timeout, "build")

    async def work(say: Say) -> None:
        async def advance(url: str, done: int, size: int | None) -> None:
            await say(fetching(url, done, size))

        async with place.local.scratch() as scratch, _given(site, source, values, scratch, place.limits) as given:
            await build(
                order,
                given.dockerfile,
                given.name,
                workshop=place.workshop(given.tree, advance),
                look_up=place.look_up,
                naming=place.local,
                say=say,
            )

    with Slot(site.builds) as slot:
        return await told(request, site.background, site.stall_timeout, lambda say: slot.held(work(say)))


def _given(
    site: Site, body: Body, values: dict[str, Any], place: Path, limits: Limits
) -> AbstractAsyncContextManager[Given]:
    """The context that the body is, or that `remote` names."""
    file, url = values.get("dockerfile"), values.get("remote")
    if url is None:
        return contexts.entered(lambda: contexts.of_source(body, file, place, limits))
    found = kind(url, is_directory=False)
    if found in (Kind.INPUT, Kind.DIRECTORY):
        raise InvalidRequest(f"remote: {masked(url)!r} is no URL", parameter="remote")
    if site.fetch is None:
        raise NotPermitted("this service fetches nothing for its clients: the setting fetch allows it")
    if found is Kind.GIT:
        network = Network(site.fetch, WEB, site.max_import_bytes)
        return contexts.of_repository(url, file, place, values.get("hashing", Hashing.DOCKER_24), network)
    return contexts.of_url(url, file, place, limits, site.fetch, FetchLimits(size=site.max_import_bytes))


async def told(
    request: web.Request, background: Background, limit: float, work: Callable[[Say], Awaitable[object]]
) -> web.StreamResponse:
    """The answer with every line that the work says, as JSON with CR LF behind it, as Docker's API has it.

    What fails before the first line raises, and so has a status of its own; what fails later is the last line.
    `limit`: seconds in which a client must take a line. One that leaves ends the build at its next line.
    """
    telling = _Telling()
    answer = web.StreamResponse(headers={hdrs.CONTENT_TYPE: "application/json", hdrs.CACHE_CONTROL: "no-store"})
    try:
        async with tasks() as group:
            group.start_soon(telling.run, background, work)
            line = await telling.hear()
            if line is None and telling.error is not None:
                raise telling.error
            await answer.prepare(request)
            while line is not None:
                await _write(answer, line, limit)
                line = await telling.hear()
    finally:
        telling.leave()
    if isinstance(telling.error, StreamerError):
        await _write(answer, failed(telling.error), limit)
    elif telling.error is not None:
        raise telling.error  # one of ours breaks the body off
    return answer


async def _write(answer: web.StreamResponse, line: Line, limit: float) -> None:
    try:
        with anyio.fail_after(limit):
            await answer.write(json.dumps(line).encode() + b"\r\n")
    except TimeoutError:
        raise ConnectionResetError("the client takes no lines") from None


def _order(values: dict[str, Any]) -> Order:
    options = Options(
        cache=not values.get("nocache", False),
        keep=not values.get("rm", True),
        keep_failed=not values.get("forcerm", False),
    )
    return Order(
        names=names(values.get("t", ())),
        arguments=values.get("buildargs", {}),
        labels=values.get("labels", {}),
        target=values.get("target", ""),
        options=options,
    )
