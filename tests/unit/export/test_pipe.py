"""The pipe: order, back-pressure, the error slot, and every order in which its two sides can leave."""

from __future__ import annotations

import asyncio
import threading

import anyio
import pytest

from streamer.errors import ConsumerGone, Draining, SourceFailed
from streamer.export.pipe import Pipe


async def drained(pipe: Pipe) -> list[bytes]:
    chunks = []
    while (chunk := await pipe.receive()) is not None:
        chunks.append(chunk)
    return chunks


async def test_chunks_arrive_in_order_and_then_the_end():
    pipe = Pipe()

    def produce() -> None:
        for number in range(1000):
            pipe.send(b"%d" % number)
        pipe.finish()

    thread = threading.Thread(target=produce)
    thread.start()
    assert await drained(pipe) == [b"%d" % number for number in range(1000)]
    thread.join()
    assert await pipe.receive() is None, "an end stays an end"


async def test_an_error_is_raised_after_the_chunks_that_were_sent_before_it():
    pipe = Pipe(capacity=3)
    pipe.send(b"one")
    pipe.send(b"two")
    pipe.finish(SourceFailed("EIO"))
    assert await pipe.receive() == b"one"
    assert await pipe.receive() == b"two"
    for _ in range(2):
        with pytest.raises(SourceFailed, match="EIO"):
            await pipe.receive()


async def test_the_first_outcome_wins():
    pipe = Pipe()
    pipe.finish(SourceFailed("first"))
    pipe.finish()
    pipe.abort(Draining("later"))
    with pytest.raises(SourceFailed, match="first"):
        await pipe.receive()


async def test_a_full_pipe_holds_its_producer_back():
    """It is back only when there is room for another chunk: of two one lies here, and the other is not made yet."""
    pipe = Pipe(capacity=1)
    first_sent, second_sent = threading.Event(), threading.Event()

    def produce() -> None:
        pipe.send(b"one")
        first_sent.set()
        pipe.send(b"two")
        second_sent.set()
        pipe.finish()

    thread = threading.Thread(target=produce)
    thread.start()
    await pipe.readable()
    assert not await asyncio.to_thread(first_sent.wait, 0.05)
    assert await pipe.receive() == b"one"
    assert await asyncio.to_thread(first_sent.wait, 60)
    await pipe.readable()
    assert not await asyncio.to_thread(second_sent.wait, 0.05)
    assert await drained(pipe) == [b"two"]
    thread.join()


async def test_a_reader_that_waits_is_woken_and_no_other():
    """Waking the loop is a system call: a chunk that the reader finds anyway needs none."""
    pipe = Pipe(capacity=3)
    woken = []
    pipe._wake = lambda: woken.append(pipe.sent)  # type: ignore[method-assign]
    pipe.send(b"one")
    pipe.send(b"two")
    assert await pipe.receive() == b"one"
    assert await pipe.receive() == b"two"
    assert woken == []
    waiting = asyncio.ensure_future(pipe.receive())
    await anyio.lowlevel.checkpoint()
    pipe.send(b"three")
    assert woken == [11]
    pipe._readable.set()
    assert await waiting == b"three"
    pipe.send(b"four")
    assert woken == [11]


@pytest.mark.parametrize("leave", [lambda pipe: pipe.close(), lambda pipe: pipe.abort(Draining("drain"))])
async def test_a_producer_that_waits_is_sent_away(leave):
    pipe = Pipe(capacity=1)
    outcome: list[BaseException] = []

    def produce() -> None:
        try:
            pipe.send(b"waits")
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=produce)
    thread.start()
    await pipe.readable()
    leave(pipe)
    await asyncio.to_thread(thread.join, 60)
    assert isinstance(outcome[0], ConsumerGone)
    with pytest.raises(ConsumerGone):
        pipe.check()


async def test_abort_reaches_a_reader_that_waits_and_drops_what_it_has_not_taken():
    pipe = Pipe(capacity=3)
    pipe.send(b"never taken")
    pipe.abort(Draining("the service is shutting down"))
    with pytest.raises(Draining):
        await pipe.receive()

    waiting = Pipe()
    async with anyio.create_task_group() as tasks:

        async def read() -> None:
            with pytest.raises(Draining):
                await waiting.receive()

        tasks.start_soon(read)
        await anyio.lowlevel.checkpoint()
        waiting.abort(Draining("now"))


async def test_abort_after_the_end_changes_nothing():
    pipe = Pipe()
    pipe.finish()
    pipe.abort(Draining("late"))
    assert await pipe.receive() is None


async def test_readable_raises_an_error_that_comes_before_the_first_chunk():
    pipe = Pipe()
    pipe.finish(SourceFailed("cannot mount"))
    with pytest.raises(SourceFailed):
        await pipe.readable()


async def test_readable_leaves_a_later_error_to_the_reader():
    pipe = Pipe(capacity=2)
    pipe.send(b"first")
    pipe.finish(SourceFailed("later"))
    await pipe.readable()
    assert await pipe.receive() == b"first"


def test_a_producer_whose_loop_is_gone_does_not_wait_for_ever():
    pipes: list[Pipe] = []

    async def main() -> None:
        pipes.append(Pipe(capacity=1))

    asyncio.run(main())
    (pipe,) = pipes
    with pytest.raises(ConsumerGone):
        pipe.send(b"one")


async def test_repr_counts():
    pipe = Pipe(capacity=2)
    pipe.send(b"12345")
    assert repr(pipe) == "<Pipe open, 1 chunks waiting, 5 bytes sent>"


class TestHandedOver:
    """The producer's thread gives its chunks to somebody who takes them there; the loop waits for the end."""

    @pytest.mark.parametrize("first", [0, 1, 2, 50])
    async def test_every_chunk_in_order(self, first: int) -> None:
        pipe, taken = Pipe(), []

        def produce() -> None:
            for number in range(100):
                pipe.send(b"%d" % number)
            pipe.finish()

        thread = threading.Thread(target=produce)
        thread.start()
        received = [await pipe.receive() for _ in range(first)]
        pipe.hand_over(lambda chunk: taken.append(bytes(chunk)))
        assert await drained(pipe) == []
        thread.join()
        assert received + taken == [b"%d" % number for number in range(100)]

    async def test_what_a_producer_left_is_received(self) -> None:
        pipe, taken = Pipe(capacity=3), []
        pipe.send(b"one")
        pipe.send(b"two")
        pipe.finish()
        pipe.hand_over(taken.append)
        assert await drained(pipe) == [b"one", b"two"]
        assert taken == []

    async def test_what_taking_raises_ends_both_sides(self) -> None:
        pipe, ended = Pipe(), []

        def gone(_chunk: object) -> None:
            raise ConnectionResetError("the client is gone")

        def produce() -> None:
            try:
                pipe.send(b"one")
                pipe.send(b"two")
            except ConsumerGone as error:
                ended.append(error)
                pipe.finish(error)

        thread = threading.Thread(target=produce)
        thread.start()
        pipe.hand_over(gone)
        with pytest.raises(ConnectionResetError):
            await drained(pipe)
        thread.join()
        assert len(ended) == 1

    async def test_a_failure_of_the_source_is_the_producers(self) -> None:
        pipe = Pipe()

        def changed(_chunk: object) -> None:
            raise SourceFailed("the disk is gone")

        def produce() -> None:
            try:
                pipe.send(b"one")
            except SourceFailed as error:
                pipe.finish(error)

        thread = threading.Thread(target=produce)
        thread.start()
        pipe.hand_over(changed)
        with pytest.raises(SourceFailed):
            await drained(pipe)
        thread.join()

    async def test_a_reader_that_leaves_ends_the_producer_at_its_next_chunk(self) -> None:
        pipe, taking, left, ended = Pipe(), threading.Event(), threading.Event(), threading.Event()

        def take(_chunk: object) -> None:
            taking.set()
            left.wait(20)

        def produce() -> None:
            with pytest.raises(ConsumerGone):
                while True:
                    pipe.send(b"more")
            ended.set()

        thread = threading.Thread(target=produce)
        thread.start()
        pipe.hand_over(take)
        await asyncio.to_thread(taking.wait, 20)
        pipe.close()
        left.set()
        thread.join(20)
        assert ended.is_set()
