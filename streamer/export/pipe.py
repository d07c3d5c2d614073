"""The one crossing between an export's thread and the event loop: a bounded queue of chunks with an error slot.

anyio's memory object streams have no error slot: a producer that fails can only close them, and its reader would see a
clean end. Here `finish(error)` makes the reader raise the error after the chunks that were sent before it.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable

from streamer.errors import ConsumerGone, StreamerError
from streamer.tar.region import Chunk


class Pipe:
    """Created on the loop; `send` and `finish` belong to the producer's thread, `receive` and `close` to the loop.

    `abort` may be called from anywhere. Every state change happens under one lock and before any wake-up, and the
    first outcome (finish, abort or close) wins.
    """

    def __init__(self, capacity: int = 1) -> None:
        self.loop = asyncio.get_running_loop()
        self._readable = asyncio.Event()
        self._waiting = False
        """Whether the reader waits. Waking a loop is a system call: not for a reader that finds the chunk anyway."""
        self._changed = threading.Condition()
        self._chunks: deque[bytes] = deque()
        self._capacity = capacity
        self._finished = False
        self._error: BaseException | None = None
        self._closed = False
        self._take: Callable[[Chunk], None] | None = None
        self.sent = 0
        """Bytes that the producer handed over."""

    @property
    def closed(self) -> bool:
        """Whether nobody reads it any more."""
        return self._closed

    def __repr__(self) -> str:
        state = "closed" if self._closed else "finished" if self._finished else "open"
        return f"<Pipe {state}, {len(self._chunks)} chunks waiting, {self.sent} bytes sent>"

    # producer's side

    def send(self, chunk: Chunk) -> None:
        """Hand over one chunk; back when there is room for another, so that none is made that nobody has room for.
        ConsumerGone once nobody will read it. A region is read, unless there is somebody who takes it as it is."""
        self._give_waiting()
        if self._take is not None:
            self.check()
            self.sent += len(chunk)
            self._give(self._take, chunk)
            return
        data = bytes(chunk)
        with self._changed:
            if self._closed:
                raise ConsumerGone("nobody reads this stream any more")
            self._chunks.append(data)
            self.sent += len(data)
            waiting, self._waiting = self._waiting, False
        if waiting:
            self._wake()
        with self._changed:
            while len(self._chunks) >= self._capacity and not self._closed and self._take is None:
                if self.loop.is_closed():
                    self._closed = True
                else:
                    self._changed.wait()
            if self._closed:
                raise ConsumerGone("nobody reads this stream any more")
        self._give_waiting()

    def _give_waiting(self) -> None:
        """Chunks that were waiting when somebody began to take them."""
        while self._take is not None:
            with self._changed:
                if self._closed or not self._chunks:
                    return
                data = self._chunks.popleft()
            self._give(self._take, data)

    def _give(self, take: Callable[[Chunk], None], chunk: Chunk) -> None:
        try:
            take(chunk)
        except StreamerError:
            raise  # of the source: a region that is not what it was
        except Exception as error:
            self.abort(error)
            raise ConsumerGone("nobody takes this stream any more") from error

    def finish(self, error: BaseException | None = None) -> None:
        """The stream ends here: cleanly, or with an error that the reader will raise. Later calls change nothing."""
        with self._changed:
            if self._finished or self._closed:
                return
            self._finished = True
            self._error = error
        self._wake()

    def check(self) -> None:
        """ConsumerGone once nobody reads: for producers that work for long without sending."""
        if self._closed:
            raise ConsumerGone("nobody reads this stream any more")

    # reader's side

    def hand_over(self, take: Callable[[Chunk], None]) -> None:
        """From now on the producer's thread gives each chunk to `take`, those that wait first. `receive` then waits for
        the end, and gives what a producer left that had ended before. What `take` raises, `receive` raises."""
        with self._changed:
            self._take = take
            self._changed.notify()

    async def receive(self) -> bytes | None:
        """The next chunk, or None after a clean end; raises the producer's error in place of an end."""
        while True:
            with self._changed:
                given = self._take is None or self._finished
                if self._chunks and given and not (self._closed and self._error is not None):
                    self._changed.notify()
                    return self._chunks.popleft()
                if self._error is not None:
                    raise self._error
                if self._closed:
                    raise ConsumerGone("this stream was closed")
                if self._finished:
                    return None
                self._readable.clear()
                self._waiting = True
            await self._readable.wait()

    async def readable(self) -> None:
        """Wait for the first chunk or a clean end; raises the producer's error if it fails before either."""
        while True:
            with self._changed:
                if self._error is not None and not self._chunks:
                    raise self._error
                if self._chunks or self._finished or self._closed:
                    return
                self._readable.clear()
                self._waiting = True
            await self._readable.wait()

    def close(self) -> None:
        """The reader leaves; a producer that waits in `send` is woken with ConsumerGone. Idempotent."""
        with self._changed:
            self._closed = True
            self._chunks.clear()
            self._changed.notify_all()
        self._wake()

    def abort(self, error: BaseException) -> None:
        """End both sides now: the reader raises `error` unless it reached the end before; the producer is sent away."""
        with self._changed:
            if self._closed or (self._finished and not self._chunks):
                return
            self._closed = True
            self._finished = True
            self._error = error
            self._chunks.clear()
            self._changed.notify_all()
        self._wake()

    def _wake(self) -> None:
        try:
            self.loop.call_soon_threadsafe(self._readable.set)
        except RuntimeError:
            # The loop is closed: there is no reader left to wake, and the producer must not wait for one.
            with self._changed:
                self._closed = True
                self._changed.notify_all()
