"""An archive in order into anything that can be written to, reconnected where its version is known."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable

import anyio
import anyio.to_thread

from streamer.client.answer import Offer
from streamer.client.download import NO_VERSION, Report, final
from streamer.client.failure import Changed, Transient, Unreachable
from streamer.client.node import Node
from streamer.client.patience import Patience
from streamer.client.request import Request
from streamer.client.verify import asked, compare
from streamer.client.watch import Watch
from streamer.errors import SourceChanged


async def stream(
    node: Node,
    request: Request,
    write: Callable[[bytes], Awaitable[object]],
    *,
    verify: bool = True,
    watch: Watch | None = None,
) -> Report:
    """Every chunk of the archive to `write`, in order. It is whole and right only if this returns.

    Raises as `download` does, and what `write` raises.
    """
    return await _Stream(node, request, write, verify, watch or Watch()).run()


class _Stream:
    def __init__(
        self, node: Node, request: Request, write: Callable[[bytes], Awaitable[object]], verify: bool, watch: Watch
    ) -> None:
        self._node, self._request, self._write, self._verify, self._watch = node, request, write, verify, watch
        self._offer: Offer | None = None
        self._sent = 0
        self._hash = hashlib.sha256()

    async def run(self) -> Report:
        patience = Patience(self._node.limits, self._watch.note)
        self._say("asking")
        while True:
            try:
                await self._pass()
                break
            except Transient as failure:
                if self._offer is not None and not self._offer.resumable:
                    raise final(failure, self._offer) from None
                await patience.bear(failure, self._sent)
            except Changed:
                raise self._changed() from None
        offer = self._offer
        assert offer is not None
        if not self._verify:
            return Report(self._sent, verified=False)
        if offer.digest is None and (offer.etag is None or offer.size is None):
            return Report(self._sent, False, NO_VERSION)
        self._say("verifying")
        told = await asked(self._node, self._request, offer, self._watch.note)
        if told.digest is not None:
            compare(self._node, self._request, told.digest, self._hash.digest())
        return Report(self._sent, told.digest is not None, told.why, offer.resumable)

    async def _pass(self) -> None:
        """As much as one connection gives."""
        offer = self._offer
        if offer is None or offer.size is None or not self._sent:
            answer = await self._node.open(self._request)
        elif self._sent >= offer.size:
            return
        else:
            answer = await self._node.open(self._request, (self._sent, offer.size), offer.etag)
        async with answer:
            if offer is None or not self._sent:
                self._offer = answer.offer
            elif not answer.offer.same(offer):
                raise Changed
            position = answer.start
            while data := await answer.read():
                fresh = data[max(0, self._sent - position) :]
                position += len(data)
                if fresh:
                    await self._pass_on(fresh)
        if self._offer is not None and self._offer.size not in (None, self._sent):
            raise Transient(Unreachable(f"{self._node} sent less than it promised"))

    async def _pass_on(self, data: bytes) -> None:
        await self._write(data)
        if self._verify:
            await anyio.to_thread.run_sync(self._hash.update, data)
        self._sent += len(data)
        self._watch.progress(self._sent, self._offer.size if self._offer else None)

    def _changed(self) -> SourceChanged:
        if not self._sent:
            return SourceChanged(f"{self._request.title} of {self._node} changes faster than it can be downloaded")
        changed = f"{self._request.title} of {self._node} has changed"
        return SourceChanged(f"{changed} after {self._sent} bytes were written, which are of no use now")

    def _say(self, doing: str) -> None:
        self._watch.progress(self._sent, self._offer.size if self._offer else None, doing)
