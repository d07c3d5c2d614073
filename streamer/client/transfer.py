"""One version of an archive on its way into its unfinished file, in as many ranges at once as there are jobs."""

from __future__ import annotations

import anyio
import anyio.to_thread

from streamer.client.answer import Offer
from streamer.client.division import Division, Piece, Span, Spans
from streamer.client.failure import Changed, Transient, Unreachable
from streamer.client.journal import Journal
from streamer.client.node import Answer, Node
from streamer.client.part import Part
from streamer.client.patience import Patience
from streamer.client.request import Request
from streamer.client.verify import Following, Told, asked, compare
from streamer.client.watch import Watch
from streamer.export.tasks import tasks

_SAVING = 1.0
"""Seconds between two journals: as much as a kill takes away again."""


class Transfer:
    def __init__(self, node: Node, request: Request, offer: Offer, file: Part, done: Spans, watch: Watch) -> None:
        assert offer.size is not None
        assert offer.etag is not None
        self.offer, self.size, self.etag = offer, offer.size, offer.etag
        self._node, self._request, self._file, self._watch = node, request, file, watch
        self._done = done
        self._saved = done.total
        self._hash: Following | None = None

    @property
    def done(self) -> int:
        """Bytes that are there."""
        return self._done.total

    @property
    def saved(self) -> int:
        """Bytes that the journal on disk says are there."""
        return self._saved

    @property
    def gap(self) -> Span | None:
        """The first that are missing."""
        return next(iter(self._done.gaps(self.size)), None)

    async def run(self, answer: Answer | None, jobs: int, *, verify: bool) -> Told | None:
        """Everything that is missing, durably; `answer` covers the first gap, None where there is none. With `verify`
        what the service told of the digest, which is then right; otherwise None.

        Changed if the source does; DigestMismatch; the last failure once it does not pass; OSError.
        """
        self._hash = Following(self._file.fd, self.size) if verify else None
        told = came = None
        async with tasks() as around:
            if self._hash is not None:
                self._hash.reached(self._done.prefix)

                async def follow(hashed: Following = self._hash) -> None:
                    nonlocal came
                    came = await hashed.digest()

                around.start_soon(follow)
            if answer is not None:
                await self._fetch(answer, jobs)
            if verify:
                self._watch.progress(self._done.total, self.size, "verifying")
                offer = self.offer if answer is None else answer.offer
                told = await asked(self._node, self._request, offer, self._watch.note)
                if told.digest is None:
                    around.cancel_scope.cancel()
        if told is not None and told.digest is not None:
            assert came is not None
            compare(self._node, self._request, told.digest, came)
        return told

    async def save(self) -> None:
        """Makes what is there durable, and says so in the journal."""
        if self._done.total == self._saved:
            return
        total = self._done.total
        journal = Journal(self._request.target, self.etag, self.size, tuple(self._done))
        await anyio.to_thread.run_sync(self._file.save, journal)
        self._saved = total

    async def _fetch(self, answer: Answer, jobs: int) -> None:
        division = Division(self._done.gaps(self.size), jobs)
        async with tasks() as beside:
            beside.start_soon(self._save_now_and_then)
            async with tasks() as workers:
                # The answer is to the question for the first gap: so its job must be the first to claim.
                for number in range(jobs):
                    if (piece := division.claim()) is not None:
                        workers.start_soon(self._work, division, piece, None if number else answer)
            beside.cancel_scope.cancel()
        await self.save()

    async def _save_now_and_then(self) -> None:
        while True:
            await anyio.sleep(_SAVING)
            await self.save()

    async def _work(self, division: Division, piece: Piece | None, answer: Answer | None) -> None:
        """One job: piece by piece, until nothing is left that is worth a request.

        What any of the jobs brings renews the patience of each: a service may well give one client fewer answers at a
        time than it wants.
        """
        patience = Patience(self._node.limits, self._watch.note)
        while piece is not None:
            try:
                if answer is None:
                    answer = await self._node.open(self._request, piece.span, self.etag)
                async with answer:
                    if not answer.offer.same(self.offer):
                        raise Changed
                    await self._receive(answer, piece)
            except Transient as failure:
                await patience.bear(failure, self._done.total)
            answer = None
            if not piece.left:
                piece = division.claim()

    async def _receive(self, answer: Answer, piece: Piece) -> None:
        """The piece's bytes into the file. The answer may begin before it: a service need not honour a range."""
        position = answer.start
        assert position <= piece.position
        while piece.left:
            data = await answer.read()
            if not data:
                raise Transient(Unreachable(f"{self._node} sent less than it promised"))
            view = memoryview(data)[max(0, piece.position - position) :][: piece.left]
            position += len(data)
            if not view:
                continue
            start = piece.position
            await anyio.to_thread.run_sync(self._file.write, view, start)
            piece.position += len(view)
            self._done.add(start, piece.position)
            if self._hash is not None:
                self._hash.reached(self._done.prefix)
            self._watch.progress(self._done.total, self.size)
