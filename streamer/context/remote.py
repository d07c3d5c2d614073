"""A URL as a context: an archive, or a bare Dockerfile, by the type that the server says and by what it is.

As Docker takes `remote`: https://docs.docker.com/reference/api/engine/, ImageBuild.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from streamer.context import incoming
from streamer.context.addresses import Policy
from streamer.context.feed import Feed, fed
from streamer.context.fetch import Fetched, fetch
from streamer.context.fetch import Limits as Fetching
from streamer.context.generate import plan_dockerfile
from streamer.context.plan import Choices, Context
from streamer.errors import Unsupported
from streamer.export.tasks import threaded
from streamer.tar.source import Limits

_ARCHIVES = frozenset(
    f"application/{prefix}{name}" for prefix in ("", "x-") for name in ("tar", "gzip", "bzip2", "xz", "zstd")
) | {"application/octet-stream", ""}
_TEXT = "text/plain"


@asynccontextmanager
async def remote(
    url: str, choices: Choices, *, policy: Policy, fetching: Fetching, limits: Limits
) -> AsyncIterator[Context]:
    """The context behind a URL, as `plan_incoming` has it; it can be exported once, while the block is open.

    Unsupported for a type that is neither an archive's nor text/plain; besides, the errors of `fetch` and `incoming`.
    """
    async with fetch(url, policy, fetching) as found, fed(found.read) as feed:
        yield await planned(found, feed, choices, limits)


def is_text(found: Fetched) -> bool:
    """Whether it is a Dockerfile by what the server says; otherwise its content tells. Unsupported if it can be neither
    that nor an archive."""
    if found.media_type not in _ARCHIVES and found.media_type != _TEXT:
        raise Unsupported(
            f"cannot make a context of {found.url}: its Content-Type is {found.media_type[:100]!r}, not an archive's "
            "and not text/plain"
        )
    return found.media_type == _TEXT


async def planned(found: Fetched, feed: Feed, choices: Choices, limits: Limits) -> Context:
    """The context of what was fetched and is read from the feed."""
    if is_text(found):
        text = await threaded(lambda: incoming.text(feed))
        return plan_dockerfile(text, choices)

    def made() -> Context:
        return incoming.plan_incoming(feed, choices, name=found.url, limits=limits)

    context = await threaded(made)
    return Context(feed.export(context.plan), context.dockerfile)
