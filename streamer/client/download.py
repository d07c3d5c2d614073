"""An archive into a file, resumed after whatever ended the last try, verified, and there only when it is whole."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

import anyio
import anyio.to_thread

from streamer.client.answer import Offer
from streamer.client.division import Spans
from streamer.client.failure import Changed, Transient
from streamer.client.node import Answer, Node
from streamer.client.part import Part, part
from streamer.client.patience import Patience
from streamer.client.request import Request
from streamer.client.transfer import Transfer
from streamer.client.verify import Following, compare
from streamer.client.watch import Watch
from streamer.errors import DigestMismatch, SourceChanged, StreamerError
from streamer.export.tasks import tasks

MOST_JOBS = 16


@dataclass(frozen=True, slots=True)
class Report:
    size: int
    """Bytes of the whole archive."""
    verified: bool
    """Whether the service told the digest, and it is right."""
    unverified: str = ""
    """Why not; empty if nobody wanted to know."""
    versioned: bool = False
    """Whether length and version were known, and all bytes are of that version."""


async def download(
    node: Node, request: Request, path: str, *, jobs: int = 1, verify: bool = True, watch: Watch | None = None
) -> Report:
    """The archive as the file `path`, which appears only when it is whole.

    Where its length and version are known it comes in up to `jobs` ranges at once, and what was written outlives the
    process: the same call goes on from there. Conflict while another download writes the same file; SourceChanged if
    the source does not stand still; DigestMismatch; Unreachable and whatever else the service refuses; OSError.
    """
    one = _Download(node, request, path, min(max(jobs, 1), MOST_JOBS), verify, watch or Watch())
    # In a task of its own: a cancellation by asyncio itself would leave a thread behind that writes to a closed file.
    async with tasks() as group:
        group.start_soon(one.run)
    assert one.report is not None
    return one.report


class _Download:
    def __init__(self, node: Node, request: Request, path: str, jobs: int, verify: bool, watch: Watch) -> None:
        self._node, self._request, self._path = node, request, path
        self._jobs, self._verify, self._watch = jobs, verify, watch
        self._transfer: Transfer | None = None
        """Of the version that is being downloaded; None before one is known, and for one that cannot be resumed."""
        self._ours = False
        """Whether what the file holds is of this download: what another one left is only removed for something new."""
        self.report: Report | None = None

    async def run(self) -> None:
        with part(self._path) as file:
            try:
                await self._recall(file)
                self.report = await self._versions(file)
            except DigestMismatch:
                self._transfer = None
                raise
            finally:
                if self.report is None:
                    with anyio.CancelScope(shield=True):
                        await self._keep(file)

    async def _recall(self, file: Part) -> None:
        """What an earlier download left, if it was of this archive."""
        kept = await anyio.to_thread.run_sync(file.journal)
        if kept is not None and kept.request == self._request.target:
            offer = Offer(kept.size, kept.etag, ranges=True, digest=None)
            self._transfer = Transfer(self._node, self._request, offer, file, Spans(kept.spans), self._watch)
            self._ours = True
        elif kept is not None:
            self._watch.note(f"{self._path} was begun as {kept.request}, which is another archive")

    async def _keep(self, file: Part) -> None:
        """What is there outlives the process, or nothing is left."""
        if file.published:
            return
        if self._transfer is None or not self._transfer.done:
            if self._ours or file.blank:
                await anyio.to_thread.run_sync(file.remove)
            return
        try:
            await self._transfer.save()
        except OSError:
            pass  # a full disk: the journal of a second ago stands, if there is one
        if not self._transfer.saved:
            await anyio.to_thread.run_sync(file.remove)
            return
        percent = self._transfer.saved * 100 // max(self._transfer.size, 1)
        self._watch.note(f"{percent} % of {self._path} are kept: the same command goes on from there")

    async def _versions(self, file: Part) -> Report:
        """One version after another, until one lasts as long as its download."""
        for _ in range(self._node.limits.restarts + 1):
            try:
                return await self._version(file)
            except Changed:
                await self._forget(file)
        raise SourceChanged(f"{self._request.title} of {self._node} changes faster than it can be downloaded")

    async def _forget(self, file: Part) -> None:
        self._watch.note(f"{self._request.title} has changed since the download began: starting over")
        await self._clear(file)

    async def _clear(self, file: Part) -> None:
        self._transfer, self._ours = None, True
        await anyio.to_thread.run_sync(file.clear)

    async def _version(self, file: Part) -> Report:
        answer = await self._opened()
        async with answer or nullcontext():
            if self._transfer is not None and answer is not None and not answer.offer.same(self._transfer.offer):
                if answer.start:
                    raise Changed  # a part of a version that nobody has the beginning of
                await self._forget(file)
            if self._transfer is None:
                assert answer is not None
                await self._clear(file)
                if not answer.offer.resumable:
                    return await self._in_one_go(answer, file)
                self._transfer = Transfer(self._node, self._request, answer.offer, file, Spans(), self._watch)
            told = await self._transfer.run(answer, self._jobs, verify=self._verify)
        await anyio.to_thread.run_sync(file.publish)
        return Report(self._transfer.size, told is not None and told.digest is not None, told.why if told else "", True)

    async def _opened(self) -> Answer | None:
        """The answer that covers the first gap. None if there is none, and the source is the same as ever."""
        begun, patience = self._transfer, Patience(self._node.limits, self._watch.note)
        while True:
            self._say("asking")
            try:
                if begun is None:
                    return await self._node.open(self._request)
                if begun.gap is not None:
                    return await self._node.open(self._request, begun.gap, begun.etag)
                await self._node.look(self._request, begun.etag, begun.size, digest=False)
                return None
            except Transient as failure:
                await patience.bear(failure, 0)

    async def _in_one_go(self, answer: Answer, file: Part) -> Report:
        """An archive that cannot be resumed: nothing of it is kept unless it is whole."""
        offer, size = answer.offer, 0
        try:
            while data := await answer.read():
                await anyio.to_thread.run_sync(file.write, memoryview(data), size)
                size += len(data)
                self._watch.progress(size, offer.size)
        except Transient as failure:
            raise final(failure, offer) from None
        verified = self._verify and offer.digest is not None
        if verified:
            hashed = Following(file.fd, size)
            hashed.reached(size)
            compare(self._node, self._request, offer.digest or b"", await hashed.digest())
        await anyio.to_thread.run_sync(file.publish)
        return Report(size, verified, "" if verified or not self._verify else NO_VERSION)

    def _say(self, doing: str) -> None:
        begun = self._transfer
        self._watch.progress(begun.done if begun else 0, begun.size if begun else None, doing)


NO_VERSION = "an archive of no known version cannot be asked for its digest"


def final(failure: Transient, offer: Offer) -> StreamerError:
    """What a failure is that cannot be passed over, because the archive cannot be resumed."""
    why = "its length is not known beforehand" if offer.size is None else "the service gives no ranges of it"
    return type(failure.error)(f"{failure.error}; this archive cannot be resumed: {why}")
